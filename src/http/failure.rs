//! Why an exchange has no whole answer.

use std::fmt;
use std::io;

use crate::memory::OutOfMemory;

/// How far an exchange got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// No byte of the request was handed to the system.
    Connect,
    /// Some of it was, or may have been.
    Send,
    /// All of it was.
    Headers,
    /// The head of the answer is there.
    Body,
}

impl Phase {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Headers => "headers",
            Self::Body => "body",
        }
    }
}

/// What went wrong. No text of the server's is part of it: that may repeat a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// In words.
    Said(String),
    /// A ceiling was passed.
    Over {
        /// What is too large: "the headers have" or "the body has".
        what: &'static str,
        /// Bytes that were found at least.
        found: u64,
        /// Bytes that are allowed.
        ceiling: u64,
        /// The limit that sets the ceiling.
        keyword: &'static str,
    },
    /// There was no memory for the answer.
    Memory(OutOfMemory),
}

/// A fault and the phase it happened in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How far the exchange had got.
    pub phase: Phase,
    /// What went wrong.
    pub fault: Fault,
}

impl Failure {
    /// A failure in words.
    pub fn new(phase: Phase, said: impl Into<String>) -> Self {
        let fault = Fault::Said(said.into());
        Self { phase, fault }
    }

    /// No memory for the answer.
    pub fn memory(phase: Phase, out: OutOfMemory) -> Self {
        let fault = Fault::Memory(out);
        Self { phase, fault }
    }

    /// An error of the system, of a connection or of TLS.
    pub fn io(phase: Phase, doing: &str, error: &io::Error) -> Self {
        Self::new(phase, format!("{doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Said(said) => f.write_str(said),
            Fault::Memory(out) => out.fmt(f),
            Fault::Over {
                what,
                found,
                ceiling,
                keyword,
            } => write!(
                f,
                "{what} at least {found} bytes, more than {ceiling} ({keyword})"
            ),
        }
    }
}

impl std::error::Error for Failure {}
