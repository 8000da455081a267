//! Threads that work for others give way to them.
#![allow(unsafe_code)] // system calls that the standard library does not name

/// Levels of niceness below the thread that is worked for: a tenth of its share of a busy processor, as `nice` has it.
#[cfg(target_os = "linux")]
const LEVELS: libc::c_int = 10;

/// Has the calling thread give way where the processors are busy: waking does not interrupt others, and its share is smaller.
///
/// So an event loop runs as soon as it can, while the bodies that it waits for are received and decoded. A thread with a
/// policy of its own keeps it. It does nothing where the system is not Linux, or does not allow it.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() {
    // SAFETY: the calls take plain numbers, and a structure that is zero but for what they read.
    unsafe {
        if libc::sched_getscheduler(0) != libc::SCHED_OTHER {
            return;
        }
        let niceness = libc::getpriority(libc::PRIO_PROCESS as _, 0);
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters);
        // On Linux niceness is a thread's, and 0 is this one.
        libc::setpriority(libc::PRIO_PROCESS as _, 0, niceness + LEVELS);
    }
}

/// Does nothing here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() {}
