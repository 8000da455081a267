//! A base64 text where it lies in the body.

use std::borrow::Cow;

use super::fill::raw;
use crate::base64::{alphabet_len, decoded_len};
use crate::error::{Class, Error, Result};
use crate::json::Cursor;
use crate::memory::Buffer;

/// A string that should be base64. Its letters were looked at once, in the pass that looked for the closing quote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob {
    /// Offset of the opening quote.
    pub(crate) at: usize,
    /// Offset of the closing quote.
    end: usize,
    /// Letters of the alphabet at the start; nothing but padding follows in a good text.
    letters: usize,
    escaped: bool,
}

impl Blob {
    /// Reads the string at the cursor.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let at = cursor.pos;
        let text = &cursor.bytes[at + 1..];
        let letters = alphabet_len(text);
        let padding = text[letters..]
            .iter()
            .take_while(|&&byte| byte == b'=')
            .count();
        let end = at + 1 + letters + padding;
        if cursor.bytes.get(end) == Some(&b'"') {
            cursor.pos = end + 1;
            return Ok(Self {
                at,
                end,
                letters,
                escaped: false,
            });
        }
        let text = cursor.string()?;
        Ok(Self {
            at,
            end: cursor.pos - 1,
            letters,
            escaped: text.escaped,
        })
    }

    /// Offset of the opening quote.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The bytes that the whole text stands for.
    pub(crate) fn bytes(&self, body: &[u8]) -> Result<Buffer<u8>> {
        let text = self.text(body);
        let len = text.decoded_len()?;
        text.check()?;
        raw(&text.text, 0, len, |at| {
            refused("base64", text.place(at), "not base64")
        })
    }

    /// The text as base64.
    pub(crate) fn text<'a>(&self, body: &'a [u8]) -> Text<'a> {
        let raw = &body[self.at + 1..self.end];
        if self.escaped {
            let text = Cursor::at(body, self.at)
                .string()
                .map(|text| text.lossy())
                .unwrap_or_default();
            let letters = alphabet_len(&text);
            return Text {
                blob: *self,
                letters,
                text: Cow::Owned(text),
            };
        }
        Text {
            blob: *self,
            letters: self.letters,
            text: Cow::Borrowed(raw),
        }
    }
}

/// A base64 text without its escapes.
pub(crate) struct Text<'a> {
    blob: Blob,
    letters: usize,
    pub(super) text: Cow<'a, [u8]>,
}

impl Text<'_> {
    /// The characters of padding: up to two `=` at the end.
    fn padding(&self) -> usize {
        let end = &self.text[self.text.len().saturating_sub(2)..];
        end.iter().rev().take_while(|&&byte| byte == b'=').count()
    }

    /// How many bytes the text stands for, judged by its length and padding alone.
    pub(crate) fn decoded_len(&self) -> Result<usize> {
        if !self.text.len().is_multiple_of(4) {
            return Err(refused(
                "base64",
                self.blob.end,
                format!(
                    "base64 of {} characters, which is not a multiple of four",
                    self.text.len()
                ),
            ));
        }
        Ok(self.text.len() / 4 * 3 - self.padding())
    }

    /// Nothing but letters in front of the padding, up to character `end`.
    fn check_letters(&self, end: usize) -> Result<()> {
        let end = end.min(self.text.len() - self.padding());
        if self.letters >= end {
            return Ok(());
        }
        let found = std::ascii::escape_default(self.text[self.letters]);
        Err(refused(
            "base64",
            self.place(self.letters),
            format!("found '{found}', which is not of the standard base64 alphabet"),
        ))
    }

    /// The whole text is canonical.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_letters(usize::MAX)?;
        decoded_len(&self.text).map(|_| ()).map_err(|bad| {
            refused(
                "base64",
                self.place(bad.at),
                "the last base64 letter has bits that belong to no byte",
            )
        })
    }

    /// The first `len` decoded bytes.
    pub(super) fn head(&self, len: usize) -> Result<Vec<u8>> {
        self.check_letters(len.div_ceil(3) * 4)?;
        let failed = |at| refused("base64", self.place(at), "not base64");
        Ok(raw::<u8>(&self.text, 0, len, failed)?.as_slice().to_vec())
    }

    /// The offset in the body of character `at`.
    pub(super) fn place(&self, at: usize) -> usize {
        if self.blob.escaped {
            self.blob.at
        } else {
            self.blob.at + 1 + at
        }
    }
}

/// An error of routed experts. The path is relative to the field.
#[cold]
pub(super) fn refused(
    kind: &'static str,
    at: usize,
    message: impl Into<Cow<'static, str>>,
) -> Error {
    Error::new(Class::RoutedExperts, kind, "", at, message)
}
