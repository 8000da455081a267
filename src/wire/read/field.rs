//! The members of a wire's objects: read at once, kept for later, or kept as a span.

use crate::error::Result;
use crate::experts::Container;
use crate::json::{Cursor, Reader};

use super::walk::{Fields, Part, Path, Walk};

/// A channel as the walk left it. null counts as absent.
#[derive(Debug, Default)]
pub(crate) enum Field<T> {
    /// Not there, or null.
    #[default]
    Absent,
    /// Read by its typed reader.
    Read {
        /// Offset of the value.
        at: usize,
        /// The result of the reader; the path of an error is relative to the field.
        value: Result<T>,
    },
    /// There, with valid syntax, and read only if no better channel is there: some answers carry the same data three times.
    Later {
        /// Offset of the value.
        at: usize,
        /// Elements that it may have.
        max_tokens: usize,
    },
}

impl<T> Field<T> {
    /// Whether there is something to take.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self, Field::Absent)
    }

    /// The offset of the value, if it is there.
    pub(crate) fn at(&self) -> Option<usize> {
        match self {
            Field::Absent => None,
            Field::Read { at, .. } | Field::Later { at, .. } => Some(*at),
        }
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

/// The bytes of a small value.
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

/// Steps over a value that has no content for an answer: null, or any value of a refused choice.
#[inline]
fn skipped(walk: &Walk<'_>, cursor: &mut Cursor<'_>) -> Result<bool> {
    if walk.refused {
        cursor.skip_value()?;
        return Ok(true);
    }
    cursor.null()
}

/// Reads the value with its typed reader.
pub(crate) fn now<R: Reader>(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Field<R::Value>> {
    if skipped(walk, cursor)? {
        return Ok(Field::Absent);
    }
    let at = cursor.pos;
    let value = cursor.field::<R>()?;
    Ok(Field::Read { at, value })
}

/// Validates the value and keeps its offset.
pub(crate) fn later<T>(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Field<T>> {
    if skipped(walk, cursor)? {
        return Ok(Field::Absent);
    }
    let (at, max_tokens) = (cursor.pos, cursor.max_tokens());
    cursor.skip_value()?;
    Ok(Field::Later { at, max_tokens })
}

/// Validates a small value.
pub(crate) fn span(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Option<Span>> {
    if skipped(walk, cursor)? {
        return Ok(None);
    }
    Span::read(cursor)
}

/// Validates the value; its offset.
pub(crate) fn offset(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    path: &Path<'_>,
) -> Result<Option<usize>> {
    Ok(span(walk, cursor, path)?.map(|span| span.start))
}

/// Reads routed experts up to their text.
pub(crate) fn experts(
    walk: &mut Walk<'_>,
    cursor: &mut Cursor<'_>,
    _: &Path<'_>,
) -> Result<Option<Container>> {
    if skipped(walk, cursor)? {
        return Ok(None);
    }
    Container::read(cursor, walk.skip_experts).map(Some)
}

/// Reads an object of the wire.
pub(crate) fn part<'a, T: Fields>(
    walk: &mut Walk<'a>,
    cursor: &mut Cursor<'a>,
    path: &Path<'_>,
) -> Result<Part<T>> {
    walk.part(cursor, path, T::NAMES)
}
