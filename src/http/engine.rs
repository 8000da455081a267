//! What a client has: its connections, and the calls that are on their way.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::call::Call;
use super::connect::{Connector, Proxy, Wiring};
use super::exchange::{Answer, Ceilings, Sent, hold, receive, send};
use super::failure::{Failure, Phase};
use super::mailbox::Mailbox;
use super::pool::Pool;
use super::request::Request;
use super::runtime;
use super::stream::Heard;
use crate::memory::Buffer;

/// Sends requests over connections of its own.
#[derive(Debug)]
pub struct Engine {
    /// None once it was dropped in a process that it does not belong to.
    inner: Option<Arc<Inner>>,
    process: u32,
}

#[derive(Debug)]
struct Inner {
    connector: Connector,
    ceilings: Ceilings,
    pool: Arc<Pool>,
    calls: Mutex<Calls>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Calls {
    on_their_way: HashMap<u64, Arc<Call>>,
    /// No call begins any more.
    closed: bool,
}

/// Why no exchange was begun.
#[derive(Debug)]
pub enum NotBegun {
    /// The engine is closed.
    Closed,
    /// The process has no thread or descriptor left, or is not the engine's.
    Io(io::Error),
}

impl From<io::Error> for NotBegun {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Engine {
    /// An engine without connections. Idle ones are kept for so long.
    pub fn new(wiring: Wiring, ceilings: Ceilings, keep: Duration) -> Self {
        let inner = Inner {
            connector: Connector::new(wiring),
            ceilings,
            pool: Arc::new(Pool::new(keep)),
            calls: Mutex::default(),
            next: AtomicU64::new(0),
        };
        Self {
            inner: Some(Arc::new(inner)),
            process: process::id(),
        }
    }

    /// Whether this is the process that it was made in; in a forked child it does nothing.
    pub fn is_at_home(&self) -> bool {
        self.process == process::id()
    }

    /// The proxy that requests are made for.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.inner
            .as_ref()
            .and_then(|inner| inner.connector.proxy())
    }

    /// Begins an exchange, at once or with the next [`flush`](Self::flush). The mailbox hears of its end, under this number.
    ///
    /// The caller keeps the process from forking meanwhile.
    pub fn start(
        &self,
        request: Request,
        notify: Option<(Arc<Mailbox>, u64)>,
        at_once: bool,
    ) -> Result<Arc<Call>, NotBegun> {
        let Some(inner) = self.inner.as_ref().filter(|_| self.is_at_home()) else {
            return Err(io::Error::other("the engine was made in another process").into());
        };
        let runtime = runtime::running(self.process)?;
        let call = Arc::new(Call::new(notify, self.process));
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        let mut calls = inner.calls();
        if calls.closed {
            return Err(NotBegun::Closed);
        }
        calls.on_their_way.insert(number, Arc::clone(&call));
        drop(calls);
        let carried = Carried {
            inner: Arc::clone(inner),
            call: Arc::clone(&call),
            number,
        };
        let (handle, begun) = (runtime.handle().clone(), Arc::clone(&call));
        let begin = move || {
            let task = handle.spawn(async move {
                let outcome = carried.inner.exchange(&request, &carried.call).await;
                carried.call.finish(outcome);
            });
            begun.carried_by(task.abort_handle());
        };
        runtime.begin(Box::new(begin), at_once);
        Ok(call)
    }

    /// Begins the exchanges that wait for others. The caller keeps the process from forking meanwhile.
    pub fn flush(&self) -> io::Result<()> {
        match self.is_at_home() {
            true => runtime::running(self.process).map(|runtime| runtime.flush()),
            false => Ok(()),
        }
    }

    /// Closes every connection; calls on their way fail, and none begins any more.
    pub fn close(&self) {
        if let Some(inner) = self.inner.as_ref().filter(|_| self.is_at_home()) {
            let mut calls = inner.calls();
            calls.closed = true;
            let given_up = mem::take(&mut calls.on_their_way);
            drop(calls);
            for call in given_up.into_values() {
                call.fail("the client was closed");
            }
            inner.pool.close();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.is_at_home() {
            self.close();
        } else {
            // The connections are the parent's: closing one here would take it from the parent's selector.
            mem::forget(self.inner.take());
        }
    }
}

impl Inner {
    async fn exchange(&self, request: &Request, call: &Call) -> Result<Answer, Failure> {
        let mut held = hold(request.wanted);
        loop {
            let kept = self.pool.take(&request.origin).await;
            let used = kept.is_some();
            let mut stream = match kept {
                Some(stream) => stream,
                None => self.connector.connect(&request.origin).await?,
            };
            if !used && stream.is_plain() && stream.heard() == Heard::Something {
                let said = "the connection held an answer before the request was sent";
                return Err(Failure::new(Phase::Headers, said));
            }
            let mut inbox = Buffer::new();
            let sent = send(&mut stream, request, &mut inbox, self.ceilings.head, call).await?;
            let broken = match sent {
                Sent::Whole => None,
                Sent::Nothing(_) if used => continue,
                Sent::Nothing(error) => {
                    let doing = "the request could not be sent";
                    return Err(Failure::io(Phase::Connect, doing, &error));
                }
                Sent::Part(error) => Some(error),
            };
            let (ceilings, held) = (&self.ceilings, held.take());
            let received = receive(&mut stream, inbox, ceilings, request.wanted, held, call).await;
            return match (received, broken) {
                (Ok((answer, reusable)), None) => {
                    if reusable {
                        self.pool.put(request.origin.clone(), stream);
                    }
                    Ok(answer)
                }
                (Ok((answer, _)), Some(_)) => Ok(answer),
                // There was no answer: why the request was not written says more.
                (Err(failure), Some(error)) if failure.phase == Phase::Headers => {
                    let doing = "the connection broke within the request";
                    Err(match error {
                        Some(error) => Failure::io(Phase::Send, doing, &error),
                        None => Failure {
                            phase: Phase::Send,
                            ..failure
                        },
                    })
                }
                (Err(failure), _) => Err(failure),
            };
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call and its place among those on their way, which it gives back, however its task ends.
struct Carried {
    inner: Arc<Inner>,
    call: Arc<Call>,
    number: u64,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.inner.calls().on_their_way.remove(&self.number);
        self.call.fail("the exchange was given up");
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
