//! A call on its way: how far it got, how it ended, and the means to end it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::exchange::Answer;
use super::failure::{Failure, Phase};
use super::mailbox::Mailbox;

/// One exchange, seen by who waits for it.
#[derive(Debug)]
pub struct Call {
    phase: AtomicU8,
    state: Mutex<State>,
    ended: Condvar,
    notify: Option<(Arc<Mailbox>, u64)>,
}

#[derive(Debug, Default)]
struct State {
    over: bool,
    outcome: Option<Result<Answer, Failure>>,
    task: Option<AbortHandle>,
}

impl Call {
    pub(super) fn new(notify: Option<(Arc<Mailbox>, u64)>) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            state: Mutex::default(),
            ended: Condvar::new(),
            notify,
        }
    }

    /// How far it got.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::Send,
            2 => Phase::Headers,
            _ => Phase::Body,
        }
    }

    pub(super) fn reach(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// What came of it, once.
    pub fn take(&self) -> Option<Result<Answer, Failure>> {
        self.lock().outcome.take()
    }

    /// Waits for its end, for so long at most; whether it is over.
    pub fn wait(&self, patience: Duration) -> bool {
        let waited = self
            .ended
            .wait_timeout_while(self.lock(), patience, |state| !state.over);
        waited.unwrap_or_else(PoisonError::into_inner).0.over
    }

    /// Gives it up: its connection is closed, and nobody is told.
    pub fn cancel(&self) {
        if let Some(Some(task)) = self.end(None) {
            task.abort();
        }
    }

    /// Gives it up in the middle: its connection is closed, and who waits is told why.
    pub(super) fn fail(&self, said: &str) {
        let failure = Failure::new(self.phase(), said);
        if let Some(task) = self.end(Some(Err(failure))) {
            self.tell();
            if let Some(task) = task {
                task.abort();
            }
        }
    }

    /// It is over; what comes later changes nothing.
    pub(super) fn finish(&self, outcome: Result<Answer, Failure>) {
        if self.end(Some(outcome)).is_some() {
            self.tell();
        }
    }

    /// What carries it, if it was not over yet.
    fn end(&self, outcome: Option<Result<Answer, Failure>>) -> Option<Option<AbortHandle>> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        state.over = true;
        state.outcome = outcome;
        Some(state.task.take())
    }

    fn tell(&self) {
        self.ended.notify_all();
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
