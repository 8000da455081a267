//! A call on its way: how far it got, how it ended, and the means to end it.

use std::mem;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::exchange::Answer;
use super::failure::{Failure, Phase};
use super::head::Head;
use super::mailbox::Mailbox;
use crate::memory::{Buffer, OutOfMemory};

/// Bytes of a stream that wait to be taken before no more are read.
const HIGH_WATER: usize = 256 << 10;

/// One exchange, seen by who waits for it.
#[derive(Debug)]
pub struct Call {
    process: u32,
    /// Whether it has ended; to know it takes no lock, which a forked child may find held for ever.
    over: AtomicBool,
    phase: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
    notify: Option<(Arc<Mailbox>, u64)>,
    /// Of a stream: what waits was taken.
    taken: Notify,
}

#[derive(Debug)]
struct State {
    over: bool,
    outcome: Option<Result<Answer, Failure>>,
    task: Option<AbortHandle>,
    /// Of a stream: its head, from when it is there until it is taken.
    head: Option<Head>,
    /// Of a stream: bytes that wait to be taken.
    waiting: Buffer<u8>,
    /// Somebody waits for the end, or for more of a stream.
    asked: bool,
}

/// What there is of a stream.
#[derive(Debug)]
pub enum Next {
    /// More bytes.
    Bytes(Buffer<u8>),
    /// Nothing yet; who asked is told when that changes.
    Nothing,
    /// Its end, as it should be or not.
    End(Result<(), Failure>),
}

impl Call {
    pub(super) fn new(notify: Option<(Arc<Mailbox>, u64)>, process: u32) -> Self {
        Self {
            process,
            over: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Connect as u8),
            state: Mutex::new(State {
                over: false,
                outcome: None,
                task: None,
                head: None,
                waiting: Buffer::new(),
                asked: true,
            }),
            changed: Condvar::new(),
            notify,
            taken: Notify::new(),
        }
    }

    /// How far it got.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Connect,
            1 => Phase::Send,
            2 => Phase::Headers,
            _ => Phase::Body,
        }
    }

    pub(super) fn reach(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Says that the request may leave from now on; false if the call is over, and it must not.
    ///
    /// Who ends the call does it in the other order, so one of the two sees the other.
    pub(super) fn may_write(&self) -> bool {
        self.reach(Phase::Send);
        !self.over.load(Ordering::SeqCst)
    }

    /// What came of it, once.
    pub fn take(&self) -> Option<Result<Answer, Failure>> {
        self.lock().outcome.take()
    }

    /// The head of a stream, once.
    pub fn head(&self) -> Option<Head> {
        self.lock().head.take()
    }

    /// What there is of a stream now.
    pub fn next(&self) -> Next {
        let mut state = self.lock();
        if !state.waiting.is_empty() {
            let bytes = mem::take(&mut state.waiting);
            drop(state);
            self.taken.notify_one();
            return Next::Bytes(bytes);
        }
        if !state.over {
            state.asked = true;
            return Next::Nothing;
        }
        let outcome = state.outcome.take();
        Next::End(match outcome {
            Some(Err(failure)) => Err(failure),
            _ => Ok(()),
        })
    }

    /// Waits for so long at most; whether it is over, or there is more of a stream.
    pub fn wait(&self, patience: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, |state| state.asked);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.asked
    }

    /// Says that the head of a stream is there.
    pub(super) fn begins(&self, head: Head) {
        let mut state = self.lock();
        state.head = Some(head);
        self.tell(state);
    }

    /// Hands over bytes of a stream, and leaves the buffer empty. Waits while too many are not taken.
    pub(super) async fn pass(&self, bytes: &mut Buffer<u8>) -> Result<(), OutOfMemory> {
        if !bytes.is_empty() {
            self.put(bytes)?;
            while self.lock().waiting.len() > HIGH_WATER {
                self.taken.notified().await;
            }
        }
        Ok(())
    }

    fn put(&self, bytes: &mut Buffer<u8>) -> Result<(), OutOfMemory> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            mem::swap(&mut state.waiting, bytes);
        } else {
            state.waiting.extend_from_slice(bytes.as_slice())?;
            bytes.truncate(0);
        }
        self.tell(state);
        Ok(())
    }

    /// Closes the connection of the call, which reports no end. In a forked child this does nothing.
    pub fn cancel(&self) {
        if self.over.load(Ordering::Acquire) || self.process != process::id() {
            return;
        }
        if let Some(Some(task)) = self.end(|_| None) {
            task.abort();
        }
    }

    /// Gives it up in the middle: its connection is closed, and who waits is told why.
    pub(super) fn fail(&self, said: &str) {
        if let Some(task) = self.end(|phase| Some(Err(Failure::new(phase, said)))) {
            self.tell(self.lock());
            if let Some(task) = task {
                task.abort();
            }
        }
    }

    /// It is over; what comes later changes nothing.
    pub(super) fn finish(&self, outcome: Result<Answer, Failure>) {
        if self.end(|_| Some(outcome)).is_some() {
            self.tell(self.lock());
        }
    }

    /// What carries it, if it was not over yet.
    fn end(
        &self,
        outcome: impl FnOnce(Phase) -> Option<Result<Answer, Failure>>,
    ) -> Option<Option<AbortHandle>> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        state.over = true;
        self.over.store(true, Ordering::SeqCst);
        state.outcome = outcome(self.phase());
        Some(state.task.take())
    }

    /// Wakes who asked.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if !mem::take(&mut state.asked) {
            return;
        }
        drop(state);
        self.changed.notify_all();
        if let Some((mailbox, number)) = &self.notify {
            mailbox.put(*number);
        }
    }

    /// The task that carries it; ended at once if the call is over.
    pub(super) fn carried_by(&self, task: AbortHandle) {
        let mut state = self.lock();
        match state.over {
            true => task.abort(),
            false => state.task = Some(task),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
