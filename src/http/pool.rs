//! Idle connections, kept for less time than servers keep them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::request::Origin;
use super::stream::{Heard, Stream};

/// How often idle connections are looked at.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Pool {
    keep: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those of a server in the order in which they became idle.
    idle: HashMap<Origin, Vec<Idle>>,
    watched: bool,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    since: Instant,
}

impl Pool {
    pub(super) fn new(keep: Duration) -> Self {
        let state = Mutex::default();
        Self { keep, state }
    }

    /// The connection to this server that became idle last, if there is one that is fit for a request.
    pub(super) async fn take(&self, origin: &Origin) -> Option<Stream> {
        loop {
            let idle = self.lock().idle.get_mut(origin)?.pop()?;
            let mut stream = idle.stream;
            if idle.since.elapsed() < self.keep && stream.is_quiet().await {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next request; closes it where there will be none.
    pub(super) fn put(self: &Arc<Self>, origin: Origin, stream: Stream) {
        let since = Instant::now();
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let idle = state.idle.entry(origin).or_default();
        idle.push(Idle { stream, since });
        if !state.watched {
            state.watched = true;
            let pool = Arc::downgrade(self);
            Handle::current().spawn(async move {
                loop {
                    tokio::time::sleep(LOOK).await;
                    match pool.upgrade() {
                        Some(pool) if pool.look() => {}
                        _ => return,
                    }
                }
            });
        }
    }

    /// Closes every idle connection, and those that become idle later.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// Closes the connections that are too old, or that heard of something; whether any are left.
    fn look(&self) -> bool {
        let mut closed = Vec::new();
        let mut state = self.lock();
        for idle in state.idle.values_mut() {
            closed.extend(idle.extract_if(.., |idle| {
                idle.since.elapsed() >= self.keep
                    || match idle.stream.heard() {
                        Heard::Nothing => false,
                        Heard::Something => idle.stream.is_plain(),
                        Heard::End => true,
                    }
            }));
        }
        state.idle.retain(|_, idle| !idle.is_empty());
        state.watched = !state.idle.is_empty();
        let watched = state.watched;
        drop(state);
        drop(closed);
        watched
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
