//! The thread that all connections of a process live on.

use std::fmt;
use std::future;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

use crate::priority::give_way;

/// Threads that ask for addresses of hosts, at most.
const RESOLVING: usize = 8;

/// Exchanges that wait for the thread to be woken, at most.
const BATCH: usize = 16;

/// What begins an exchange; it is called on the thread.
type Begin = Box<dyn FnOnce() + Send>;

/// The thread of this process, and the exchanges that it has not begun yet.
pub(super) struct Runtime {
    handle: Handle,
    waiting: Mutex<Vec<Begin>>,
    more: Notify,
}

/// The runtime of `process`, which is this one. A forked child has a thread of its own, from its first request on.
///
/// The caller keeps the process from forking meanwhile.
pub(super) fn running(process: u32) -> io::Result<Arc<Runtime>> {
    static RUNNING: Mutex<Option<(u32, Arc<Runtime>)>> = Mutex::new(None);
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*running {
        Some((owner, runtime)) if *owner == process => Ok(Arc::clone(runtime)),
        _ => {
            let runtime = Runtime::start()?;
            let before = running.replace((process, Arc::clone(&runtime)));
            // What a child inherited is its parent's: freeing it would close what both share.
            mem::forget(before);
            Ok(runtime)
        }
    }
}

impl Runtime {
    fn start() -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(RESOLVING)
            .thread_name("tito-resolve")
            .build()?;
        let started = Arc::new(Self {
            handle: runtime.handle().clone(),
            waiting: Mutex::default(),
            more: Notify::new(),
        });
        let beginning = Arc::clone(&started);
        runtime.spawn(async move {
            loop {
                beginning.more.notified().await;
                let begins = mem::take(&mut *beginning.waiting());
                begins.into_iter().for_each(|begin| begin());
            }
        });
        thread::Builder::new()
            .name("tito-http".into())
            .spawn(move || {
                give_way();
                runtime.block_on(future::pending::<()>());
            })?;
        Ok(started)
    }

    /// Where tasks are spawned.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Has an exchange begun, at once or when several are: to wake a thread takes longer than to begin an exchange.
    pub(super) fn begin(&self, begin: Begin, at_once: bool) {
        let mut waiting = self.waiting();
        waiting.push(begin);
        let many = waiting.len() == BATCH;
        drop(waiting);
        if at_once || many {
            self.more.notify_one();
        }
    }

    /// Has those begun that wait.
    pub(super) fn flush(&self) {
        if !self.waiting().is_empty() {
            self.more.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Begin>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}
