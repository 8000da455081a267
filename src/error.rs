//! Errors as values: a class, a kind, and an address in the body. No Python here.

use std::borrow::Cow;
use std::fmt;

/// The exception that the error becomes in Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Not a whole, unambiguous JSON document.
    Malformed,
    /// A field that had to be there is not.
    Missing,
    /// Counts or identities that disagree.
    Alignment,
    /// Anything about routed experts.
    RoutedExperts,
    /// The server answered with an error.
    Server,
    /// The engine failed while it worked on the answer.
    Engine,
    /// An argument of the caller does not fit (a `ValueError`).
    Argument,
    /// Memory that was not available (a `MemoryError`).
    Memory,
}

/// Why a body was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Which exception this becomes.
    pub class: Class,
    /// A stable word for programs, such as `duplicate_key`.
    pub kind: &'static str,
    /// Where in the document, such as `choices[0].token_ids[3]`; empty for the document itself.
    pub path: String,
    /// Where in the body, in bytes.
    pub offset: Option<usize>,
    /// What was found and what was expected, without the address.
    pub message: Cow<'static, str>,
}

/// The result of everything in the core.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error at a path and a byte offset.
    pub fn new(
        class: Class,
        kind: &'static str,
        path: impl Into<String>,
        offset: impl Into<Option<usize>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            class,
            kind,
            path: path.into(),
            offset: offset.into(),
            message: message.into(),
        }
    }

    /// The same error seen from further out: `base` goes before its path.
    #[must_use]
    pub fn under(mut self, base: &str) -> Self {
        if !base.is_empty() {
            self.path = if self.path.is_empty() || self.path.starts_with('[') {
                format!("{base}{}", self.path)
            } else {
                format!("{base}.{}", self.path)
            };
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match (self.path.as_str(), self.offset) {
            ("", None) => Ok(()),
            ("", Some(offset)) => write!(f, " (at byte {offset})"),
            (path, None) => write!(f, " (at {path})"),
            (path, Some(offset)) => write!(f, " (at {path}, byte {offset})"),
        }
    }
}

impl std::error::Error for Error {}
