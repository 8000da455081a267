//! Where an event loop hears of calls that are over: one wake-up for all that ended since the last.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Numbers of calls that are over, and a pipe that is readable while there are any.
#[derive(Debug)]
pub struct Mailbox {
    reader: PipeReader,
    writer: PipeWriter,
    over: Mutex<Vec<u64>>,
}

impl Mailbox {
    /// An empty one; it needs two descriptors.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let over = Mutex::default();
        Ok(Self {
            reader,
            writer,
            over,
        })
    }

    /// The end of the pipe that is to be watched.
    pub fn reader(&self) -> &PipeReader {
        &self.reader
    }

    /// The calls that ended since the last time.
    pub fn drain(&self) -> Vec<u64> {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if !over.is_empty() {
            // There is exactly one byte in the pipe, so this does not wait.
            let _ = (&self.reader).read(&mut [0]);
        }
        mem::take(&mut over)
    }

    pub(super) fn put(&self, call: u64) {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if over.is_empty() {
            let _ = (&self.writer).write(&[0]);
        }
        over.push(call);
    }
}
