//! How much of a large body must be there before its reader is woken.
//!
//! The system wakes a reader for each piece that comes, some 100 KB on a fast line. Waking costs more than reading does.
#![allow(unsafe_code)] // a socket option that no crate names

use std::io;

use super::stream::Stream;

/// Bytes that are worth a wake-up.
const ENOUGH: u64 = 512 << 10;

/// The mark of a connection, while it receives one body.
#[derive(Debug)]
pub(super) struct LowWater {
    mark: u64,
}

impl LowWater {
    /// As the system has it: every byte counts.
    pub(super) fn new() -> Self {
        Self { mark: 1 }
    }

    /// Moves the mark, where so many bytes certainly come: never above them, so that the last ones wake too.
    ///
    /// The end of a connection always wakes.
    pub(super) fn follow(&mut self, stream: &Stream, coming: u64) -> io::Result<()> {
        let mark = match self.mark {
            1 if coming < ENOUGH => 1,
            _ => coming.clamp(1, ENOUGH),
        };
        if mark != self.mark {
            // Under TLS it is not known how many bytes come, some of which may be here already.
            if !stream.is_plain() {
                return Ok(());
            }
            match set(stream, mark) {
                Ok(()) => self.mark = mark,
                // A system without marks wakes for every byte.
                Err(_) if self.mark == 1 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn set(stream: &Stream, mark: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let mark = mark as libc::c_int;
    // SAFETY: the descriptor is open, and the value is of the type and size that this option has.
    let done = unsafe {
        libc::setsockopt(
            stream.tcp().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const mark).cast(),
            size_of_val(&mark) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn set(_: &Stream, _: u64) -> io::Result<()> {
    Ok(())
}
