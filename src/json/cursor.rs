//! A strict reading position in an immutable document.

use crate::error::{Class, Error, Result};
use crate::limits::{self, Limits};

/// What a value is, judged by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// `-` or a digit
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

impl Kind {
    /// The kind with its article, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        }
    }
}

/// A position in a document. Every method leaves `pos` behind what it read, or fails.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    /// The whole body.
    pub(crate) bytes: &'a [u8],
    /// The next byte.
    pub(crate) pos: usize,
    /// Open brackets around `pos`.
    pub(super) depth: usize,
    max_depth: usize,
    max_tokens: usize,
}

impl<'a> Cursor<'a> {
    /// At the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::within(bytes, Limits::default())
    }

    /// At the first byte, with these ceilings.
    pub(crate) fn within(bytes: &'a [u8], limits: Limits) -> Self {
        Self {
            bytes,
            pos: 0,
            depth: 0,
            max_depth: limits.max_depth,
            max_tokens: limits.max_tokens,
        }
    }

    /// At a value that has been validated before.
    pub(crate) fn at(bytes: &'a [u8], pos: usize) -> Self {
        Self {
            bytes,
            pos,
            depth: 0,
            max_depth: usize::MAX,
            max_tokens: usize::MAX,
        }
    }

    /// The same cursor where a list may have this many elements.
    pub(crate) fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// Elements that a list with an element per token may have.
    #[inline(always)]
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The byte at `pos`, if any.
    #[inline(always)]
    pub(crate) fn byte(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    /// The `N` bytes from `pos` on, where the body is that long.
    #[inline(always)]
    pub(crate) fn chunk<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.bytes.get(self.pos..)?.first_chunk()
    }

    /// Steps over `literal` if it is exactly what follows.
    #[inline(always)]
    pub(crate) fn eat<const N: usize>(&mut self, literal: &[u8; N]) -> bool {
        let found = self.chunk::<N>() == Some(literal);
        if found {
            self.pos += N;
        }
        found
    }

    /// Steps over white space.
    #[inline(always)]
    pub(crate) fn space(&mut self) {
        if self.byte().is_some_and(|byte| byte > b' ') {
            return;
        }
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.byte() {
            self.pos += 1;
        }
    }

    /// The next byte that is not white space, left in place.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.byte()
    }

    /// The error of a byte at `offset` that cannot continue the document.
    #[cold]
    pub(crate) fn syntax(&self, offset: usize, expected: &'static str) -> Error {
        match self.bytes.get(offset) {
            None => Error::new(
                Class::Malformed,
                "truncated",
                "",
                self.bytes.len(),
                format!("the body ends where {expected} was expected"),
            ),
            Some(&byte) => Error::new(
                Class::Malformed,
                "syntax",
                "",
                offset,
                format!(
                    "found '{}' where {expected} was expected",
                    std::ascii::escape_default(byte)
                ),
            ),
        }
    }

    /// The kind of the value that follows. Does not step over it.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.syntax(self.pos, "a value")),
        }
    }

    /// Steps over an opening bracket that `kind` has seen.
    pub(crate) fn open(&mut self) -> Result<()> {
        if self.depth == self.max_depth {
            return Err(self.too_deep());
        }
        self.depth += 1;
        self.pos += 1;
        Ok(())
    }

    #[cold]
    fn too_deep(&self) -> Error {
        let found = format!("{} brackets are open", self.depth + 1);
        let message = limits::over(found, self.max_depth, "max_depth");
        Error::new(Class::Malformed, "too_deep", "", self.pos, message)
    }

    /// Counts an opening bracket that was stepped over with what follows it. Only where the depth is known to be small.
    #[inline(always)]
    pub(crate) fn entered(&mut self) {
        debug_assert!(self.depth < *Limits::DEPTHS.start());
        self.depth += 1;
    }

    /// Takes an [`entered`](Self::entered) back.
    #[inline(always)]
    pub(crate) fn left(&mut self) {
        self.depth -= 1;
    }

    /// Steps over a closing bracket.
    #[inline(always)]
    pub(crate) fn close(&mut self) {
        self.depth -= 1;
        self.pos += 1;
    }

    /// Reads the members of an object, one call of `member(cursor, key)` each; `member` must consume the value.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, super::Text<'a>) -> Result<()>,
    ) -> Result<()> {
        self.open()?;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.syntax(self.pos, "a key"));
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.syntax(self.pos, "':'"));
            }
            self.pos += 1;
            self.space();
            member(self, key)?;
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.syntax(self.pos, "',' or '}'")),
            }
        }
    }

    /// Reads the elements of an array, one call of `element(cursor, index)` each; `element` must consume the value.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        self.open()?;
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        let mut index = 0;
        loop {
            self.space();
            element(self, index)?;
            index += 1;
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.syntax(self.pos, "',' or ']'")),
            }
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(byte) => Err(Error::new(
                Class::Malformed,
                "trailing_data",
                "",
                self.pos,
                format!(
                    "found '{}' after the end of the document",
                    std::ascii::escape_default(byte)
                ),
            )),
        }
    }
}
