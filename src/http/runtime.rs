//! The thread that all connections of a process live on.

use std::future;
use std::io;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Threads that ask for addresses of hosts, at most.
const RESOLVING: usize = 8;

/// The runtime of this process. A forked child has a thread of its own, from its first request on.
///
/// The caller keeps the process from forking meanwhile.
pub(super) fn handle() -> io::Result<Handle> {
    static RUNNING: Mutex<Option<(u32, Handle)>> = Mutex::new(None);
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*running {
        Some((owner, handle)) if *owner == process::id() => Ok(handle.clone()),
        _ => {
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .max_blocking_threads(RESOLVING)
                .thread_name("tito-resolve")
                .build()?;
            let handle = runtime.handle().clone();
            thread::Builder::new()
                .name("tito-http".into())
                .spawn(move || runtime.block_on(future::pending::<()>()))?;
            let before = running.replace((process::id(), handle.clone()));
            // What a child inherited is its parent's: freeing it would close what both share.
            std::mem::forget(before);
            Ok(handle)
        }
    }
}
