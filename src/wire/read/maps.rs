//! Prompt logprobs: `[null, {"<id>": {"logprob": …, "rank": …, "decoded_token": …}, …}, …]`.
//!
//! vLLM lists the prompt's own token first. Dynamo's maps have no order (observed on 1.6.1), so the reader relies on none.

use std::collections::HashSet;

use crate::error::{Class, Error};
use crate::json::{Cursor, Reader, Stop, canonical_id, misfit};
use crate::memory::Buffer;

use super::ids::{Read, elements, number, one_more};
use super::members::{repeated, without_logprob};

/// The entries of every position, end to end.
#[derive(Debug, Default)]
pub(crate) struct PromptEntries {
    pub(crate) ids: Buffer<i32>,
    /// As written; NaN for null.
    pub(crate) logprobs: Buffer<f64>,
    /// Where each position begins; one more than there are positions.
    pub(crate) offsets: Buffer<i64>,
    /// Positions that are null, ascending.
    pub(crate) nulls: Buffer<i64>,
}

/// Entries of one position up to which a repeated key is looked for by comparing.
const FEW: usize = 16;

impl Reader for PromptEntries {
    type Value = Self;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        let mut columns = PromptEntries::default();
        columns.offsets.push(0)?;
        let at = cursor.pos;
        elements!(cursor, String::new(), {
            let position = columns.offsets.len() - 1;
            one_more(cursor, position, at)?;
            if cursor.eat(b"null") {
                columns.nulls.push(position as i64)?;
            } else {
                map(cursor, position, &mut columns)?;
            }
            columns.offsets.push(columns.ids.len() as i64)?;
        });
        Ok(columns)
    }
}

/// Reads the map of one position.
#[inline(always)]
fn map(cursor: &mut Cursor<'_>, position: usize, columns: &mut PromptEntries) -> Read<()> {
    if cursor.byte() != Some(b'{') {
        return Err(misfit(cursor, format!("[{position}]"), "an object or null"));
    }
    cursor.open()?;
    if cursor.peek() == Some(b'}') {
        cursor.close();
        return Ok(());
    }
    let first = columns.ids.len();
    let mut many: HashSet<i32> = HashSet::new();
    loop {
        if cursor.peek() != Some(b'"') {
            return Err(Stop::Syntax);
        }
        let at = cursor.pos;
        let id = key(cursor, position)?;
        let held = &columns.ids.as_slice()[first..];
        let twice = if held.len() < FEW {
            held.contains(&id)
        } else {
            if many.is_empty() {
                many.extend(held);
            }
            !many.insert(id)
        };
        if twice {
            return Err(repeated(format!("[{position}].{id}"), at));
        }
        let logprob = entry(cursor, |key| format!("[{position}].{id}{key}"))?;
        columns.ids.push(id)?;
        columns.logprobs.push(logprob)?;
        match cursor.peek() {
            Some(b',') => cursor.pos += 1,
            Some(b'}') => {
                cursor.close();
                return Ok(());
            }
            _ => return Err(Stop::Syntax),
        }
    }
}

/// Reads `"<id>":`.
#[inline(always)]
fn key(cursor: &mut Cursor<'_>, position: usize) -> Read<i32> {
    let at = cursor.pos;
    cursor.pos += 1;
    if let Some(id) = cursor.short_id()
        && cursor.eat(b"\":")
    {
        cursor.space();
        return Ok(id);
    }
    cursor.pos = at;
    any_key(cursor, position)
}

#[cold]
fn any_key(cursor: &mut Cursor<'_>, position: usize) -> Read<i32> {
    let text = cursor.any_key()?;
    let Some(id) = text
        .short("2147483647".len())
        .and_then(|bytes| canonical_id(&bytes))
    else {
        return Err(Error::new(
            Class::Malformed,
            "type",
            format!("[{position}]"),
            text.at,
            "the key is not a token id",
        )
        .into());
    };
    Ok(id)
}

/// Reads `{"logprob": …, …}`; null is NaN.
#[inline(always)]
fn entry(cursor: &mut Cursor<'_>, path: impl Fn(&str) -> String) -> Read<f64> {
    let at = cursor.pos;
    if cursor.byte() != Some(b'{') {
        return Err(misfit(cursor, path(""), "an object"));
    }
    cursor.open()?;
    let mut logprob = None;
    let mut first = true;
    loop {
        let key_at = match cursor.peek() {
            Some(b'"') => cursor.pos,
            Some(b'}') if first => break,
            _ => return Err(Stop::Syntax),
        };
        first = false;
        if is_logprob(cursor)? {
            if logprob.is_some() {
                return Err(repeated(path(".logprob"), key_at));
            }
            logprob = Some(if cursor.eat(b"null") {
                f64::NAN
            } else {
                number(cursor, || path(".logprob"))?
            });
        } else {
            cursor.skip_value()?;
        }
        match cursor.peek() {
            Some(b',') => cursor.pos += 1,
            Some(b'}') => break,
            _ => return Err(Stop::Syntax),
        }
    }
    cursor.close();
    logprob.ok_or_else(|| without_logprob(path(".logprob"), at))
}

/// Reads a key and its colon; whether it is `logprob`.
#[inline(always)]
fn is_logprob(cursor: &mut Cursor<'_>) -> Read<bool> {
    let known = if cursor.eat(b"\"logprob\":") {
        Some(true)
    } else if cursor.eat(b"\"rank\":") || cursor.eat(b"\"decoded_token\":") {
        Some(false)
    } else {
        None
    };
    if let Some(known) = known {
        cursor.space();
        return Ok(known);
    }
    Ok(cursor.any_key()?.is(b"logprob"))
}
