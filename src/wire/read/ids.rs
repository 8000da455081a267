//! Typed readers of lists of token ids and of numbers.

use crate::error::{Class, Error};
use crate::json::{Cursor, Reader, Stop, misfit};
use crate::limits::{self, MAX_TOKEN_ID};
use crate::memory::Buffer;

/// What a typed reader returns.
pub(crate) type Read<T> = std::result::Result<T, Stop>;

/// Reads an array: `$element` runs at each element. Returns from the surrounding function where there is no array.
///
/// A macro: a closure passed to a function need not be inlined, and is then not compiled for the processor features that
/// `json::field` detects.
macro_rules! elements {
    ($cursor:ident, $path:expr, $element:block) => {
        if $cursor.peek() != Some(b'[') {
            return Err($crate::json::misfit($cursor, $path, "an array"));
        }
        $cursor.open()?;
        if $cursor.peek() == Some(b']') {
            $cursor.close();
        } else {
            loop {
                $cursor.space();
                $element
                // Compact documents have no white space here.
                let mut next = $cursor.byte();
                if !matches!(next, Some(b',' | b']')) {
                    next = $cursor.peek();
                }
                match next {
                    Some(b',') => $cursor.pos += 1,
                    Some(b']') => {
                        $cursor.close();
                        break;
                    }
                    _ => return Err($crate::json::Stop::Syntax),
                }
            }
        }
    };
}
pub(crate) use elements;

/// Whether a list of one element per token, which began at `at`, may have one more than `count`.
#[inline(always)]
pub(crate) fn one_more(cursor: &Cursor<'_>, count: usize, at: usize) -> Read<()> {
    if count == cursor.max_tokens() {
        return Err(too_many(count, at));
    }
    Ok(())
}

#[cold]
fn too_many(ceiling: usize, at: usize) -> Stop {
    let found = format!("the list has at least {} elements", ceiling + 1);
    let message = limits::over(found, ceiling, "max_tokens");
    Error::new(Class::Malformed, "too_many", "", at, message).into()
}

/// A token id at the cursor: a JSON integer without sign, fraction or exponent, at most 2^31-1.
#[inline(always)]
pub(crate) fn id(cursor: &mut Cursor<'_>, path: impl FnOnce() -> String) -> Read<i32> {
    let start = cursor.pos;
    if let Some(id) = cursor.short_id() {
        // A fraction or an exponent makes it a number that is no id.
        if !matches!(cursor.byte(), Some(b'.' | b'e' | b'E')) {
            return Ok(id);
        }
        cursor.pos = start;
    }
    long_id(cursor, path())
}

#[cold]
fn long_id(cursor: &mut Cursor<'_>, path: String) -> Read<i32> {
    let at = cursor.pos;
    match cursor.integer(u64::from(MAX_TOKEN_ID) + 1) {
        Some(id) if id <= u64::from(MAX_TOKEN_ID) => Ok(id as i32),
        Some(_) => Err(Error::new(
            Class::Malformed,
            "range",
            path,
            at,
            format!("a token id is at most {MAX_TOKEN_ID}"),
        )
        .into()),
        None => Err(misfit(cursor, path, "a token id (an integer of 0 or more)")),
    }
}

/// A finite number at the cursor.
#[inline(always)]
pub(crate) fn number(cursor: &mut Cursor<'_>, path: impl FnOnce() -> String) -> Read<f64> {
    let at = cursor.pos;
    match cursor.double() {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(Error::new(
            Class::Malformed,
            "range",
            path(),
            at,
            "the number does not fit a float64",
        )
        .into()),
        None => Err(misfit(cursor, path(), "a number")),
    }
}

/// One token id.
pub(crate) struct Id;

impl Reader for Id {
    type Value = i32;

    fn read(cursor: &mut Cursor<'_>) -> Read<i32> {
        id(cursor, String::new)
    }
}

/// A list of token ids.
pub(crate) struct Ids;

impl Reader for Ids {
    type Value = Buffer<i32>;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Buffer<i32>> {
        let mut ids = Buffer::new();
        append_ids(cursor, &mut ids)?;
        Ok(ids)
    }
}

/// Appends the ids of the list at the cursor.
#[inline(always)]
pub(crate) fn append_ids(cursor: &mut Cursor<'_>, ids: &mut Buffer<i32>) -> Read<()> {
    let at = cursor.pos;
    elements!(cursor, String::new(), {
        one_more(cursor, ids.len(), at)?;
        let id = id(cursor, || format!("[{}]", ids.len()))?;
        ids.push(id)?;
    });
    Ok(())
}

/// A flat list of numbers.
pub(crate) struct Numbers;

impl Reader for Numbers {
    type Value = Buffer<f64>;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Buffer<f64>> {
        let mut numbers = Buffer::new();
        append_numbers(cursor, &mut numbers)?;
        Ok(numbers)
    }
}

/// Appends the numbers of the list at the cursor.
#[inline(always)]
pub(crate) fn append_numbers(cursor: &mut Cursor<'_>, numbers: &mut Buffer<f64>) -> Read<()> {
    let at = cursor.pos;
    elements!(cursor, String::new(), {
        one_more(cursor, numbers.len(), at)?;
        let number = number(cursor, || format!("[{}]", numbers.len()))?;
        numbers.push(number)?;
    });
    Ok(())
}

/// Lists of token ids, end to end.
#[derive(Debug)]
pub(crate) struct IdLists {
    pub(crate) ids: Buffer<i32>,
    /// Where each list begins; one more than there are lists.
    pub(crate) offsets: Buffer<i64>,
}

impl Reader for IdLists {
    type Value = Self;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        let mut lists = IdLists {
            ids: Buffer::new(),
            offsets: Buffer::new(),
        };
        lists.offsets.push(0)?;
        let at = cursor.pos;
        elements!(cursor, String::new(), {
            let row = lists.offsets.len() - 1;
            one_more(cursor, row, at)?;
            let first = lists.ids.len();
            elements!(cursor, format!("[{row}]"), {
                let id = id(cursor, || format!("[{row}][{}]", lists.ids.len() - first))?;
                lists.ids.push(id)?;
            });
            lists.offsets.push(lists.ids.len() as i64)?;
        });
        Ok(lists)
    }
}
