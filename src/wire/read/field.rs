//! A value of the document that one role of the answer may come from.

use crate::error::Result;
use crate::json::{Cursor, Reader};

/// A channel as the scan left it. null counts as absent.
#[derive(Debug, Default)]
pub(crate) enum Field<T> {
    /// Not there, or null.
    #[default]
    Absent,
    /// Read by its typed reader.
    Read {
        /// Offset of the value.
        at: usize,
        /// What the reader made of it; the path of an error is relative to the field.
        value: Result<T>,
    },
    /// There and validated, but read only if nothing better is: most answers carry one channel, some the same data three times.
    Later {
        /// Offset of the value.
        at: usize,
        /// Elements that it may have.
        max_tokens: usize,
    },
}

impl<T> Field<T> {
    /// Reads the value at the cursor now.
    pub(crate) fn now<R: Reader<Value = T>>(cursor: &mut Cursor<'_>) -> Result<Self> {
        if cursor.null()? {
            return Ok(Field::Absent);
        }
        let at = cursor.pos;
        let value = cursor.field::<R>()?;
        Ok(Field::Read { at, value })
    }

    /// Validates the value at the cursor and remembers where it is.
    pub(crate) fn later(cursor: &mut Cursor<'_>) -> Result<Self> {
        if cursor.null()? {
            return Ok(Field::Absent);
        }
        let (at, max_tokens) = (cursor.pos, cursor.max_tokens());
        cursor.skip_value()?;
        Ok(Field::Later { at, max_tokens })
    }

    /// Whether there is something to take.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self, Field::Absent)
    }

    /// The offset of the value and what its reader makes of it; the path of an error is relative to the field.
    pub(crate) fn take<R: Reader<Value = T>>(self, body: &[u8]) -> Option<(usize, Result<T>)> {
        match self {
            Field::Absent => None,
            Field::Read { at, value } => Some((at, value)),
            Field::Later { at, max_tokens } => {
                let mut cursor = Cursor::at(body, at).with_max_tokens(max_tokens);
                let value = cursor.field::<R>().unwrap_or_else(Err);
                Some((at, value))
            }
        }
    }
}

/// The text of a small value, for simd-json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// Validates the value at the cursor; None for null.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Option<Self>> {
        if cursor.null()? {
            return Ok(None);
        }
        let start = cursor.pos;
        cursor.skip_value()?;
        Ok(Some(Span {
            start,
            end: cursor.pos,
        }))
    }
}
