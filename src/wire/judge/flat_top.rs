//! Step (c), SGLang's flat form of alternatives: the values and the ids of every position end to end, as lists or as
//! base64, with their shape beside them (0.5.23, `managers/tokenizer_manager.py`).

use crate::error::{Class, Error, Result};
use crate::experts::{Blob, doubles, integers};
use crate::json::{Cursor, Kind};
use crate::limits;
use crate::memory::Buffer;
use crate::wire::answer::Channel;
use crate::wire::read::field::{Field, Span};
use crate::wire::read::ids::{Id, Ids, Numbers};
use crate::wire::read::triples::TopRows;
use crate::wire::sentinel::{first_too_high, or_nan, positive_logprob};

use super::locate::{Step, locate};

/// A member: the path, and where it stands.
type Member = (&'static str, Option<Span>);

/// The members of one side.
#[derive(Debug)]
pub(crate) struct FlatTop {
    pub(crate) val_flat: Member,
    pub(crate) idx_flat: Member,
    pub(crate) val_flat_b64: Member,
    pub(crate) idx_flat_b64: Member,
    pub(crate) val_flat_b64_dtype: Member,
    pub(crate) idx_flat_b64_dtype: Member,
    pub(crate) shape: Member,
    pub(crate) null_prefix: Member,
}

/// An error of a member.
type OfMember<T> = std::result::Result<T, (&'static str, usize, Error)>;

impl FlatTop {
    /// The alternatives as rows, if there are any. The place is that of the values, or of the member that is wrong.
    pub(crate) fn channel(&self, body: &[u8], max_tokens: usize) -> Option<Channel<TopRows>> {
        let packed = self.val_flat_b64.1.is_some() || self.idx_flat_b64.1.is_some();
        if !packed && self.val_flat.1.is_none() && self.idx_flat.1.is_none() {
            return None;
        }
        let values = self.values(packed);
        let (name, at, value) = match self.read(packed, body, max_tokens) {
            Ok(rows) => {
                let at = values.1.map_or(0, |span| span.start);
                (values.0, at, Ok(rows))
            }
            Err((name, at, error)) => (name, at, Err(error)),
        };
        let field = Field::Read { at, value };
        Some(Channel::local(name, field))
    }

    /// The member that holds the values.
    fn values(&self, packed: bool) -> Member {
        if packed {
            self.val_flat_b64
        } else {
            self.val_flat
        }
    }

    fn read(&self, packed: bool, body: &[u8], max_tokens: usize) -> OfMember<TopRows> {
        let (rows, width) = here(self.shape, |span| shape(span, body, max_tokens))?;
        let prefix = match self.null_prefix {
            (_, None) => 0,
            (name, Some(span)) => {
                let prefix = Cursor::at(body, span.start).field::<Id>();
                prefix.unwrap_or_else(Err).map_err(of(name, span))?
            }
        };
        let positions = rows + prefix as usize;
        if positions > max_tokens {
            here(self.shape, |span| {
                Err(too_many(positions, max_tokens, span))
            })?;
        }
        let count = rows * width;
        let (mut logprobs, ids) = if packed {
            for (member, dtype) in [
                (self.val_flat_b64_dtype, "float32"),
                (self.idx_flat_b64_dtype, "int32"),
            ] {
                if member.1.is_some() {
                    here(member, |span| is_dtype(span, dtype, body))?;
                }
            }
            let values = here(self.val_flat_b64, |span| floats(span, count, body))?;
            let ids = here(self.idx_flat_b64, |span| packed_ids(span, count, body))?;
            (values, ids)
        } else {
            let values = here(self.val_flat, |span| {
                let list = long(span, body).field::<Numbers>().unwrap_or_else(Err)?;
                same_count(list.len(), count, span)?;
                Ok(list)
            })?;
            let ids = here(self.idx_flat, |span| {
                let list = long(span, body).field::<Ids>().unwrap_or_else(Err)?;
                same_count(list.len(), count, span)?;
                Ok(list)
            })?;
            (values, ids)
        };
        let values = self.values(packed);
        here(values, |span| {
            let Some(i) = first_too_high(logprobs.as_slice()) else {
                return Ok(());
            };
            let at = locate(body, span.start, &[Step::Index(i)]);
            let at = at.or(Some(span.start));
            Err(positive_logprob(
                logprobs.as_slice()[i],
                format!("[{i}]"),
                at,
            ))
        })?;
        for value in logprobs.as_mut_slice() {
            *value = or_nan(*value);
        }
        here(values, |span| {
            // No list has so many elements. A prefix takes no bytes, so that it could ask for any memory.
            if positions > body.len() {
                return Err(uncounted(positions, span));
            }
            let mut offsets = Buffer::with_capacity(positions + 1)?;
            for _ in 0..prefix {
                offsets.push(0)?;
            }
            for row in 0..=rows {
                offsets.push((row * width) as i64)?;
            }
            Ok(TopRows {
                ids,
                logprobs,
                offsets,
            })
        })
    }
}

/// What `read` makes of a member that must be there.
fn here<T>((name, span): Member, read: impl FnOnce(Span) -> Result<T>) -> OfMember<T> {
    let Some(span) = span else {
        let message = "flat top log-probabilities need values, ids and their shape";
        let error = Error::new(Class::Missing, "missing", "", None, message);
        return Err((name, 0, error));
    };
    read(span).map_err(of(name, span))
}

fn of(name: &'static str, span: Span) -> impl FnOnce(Error) -> (&'static str, usize, Error) {
    move |error| (name, span.start, error)
}

fn refused(kind: &'static str, span: Span, message: impl Into<String>) -> Error {
    Error::new(Class::Malformed, kind, "", span.start, message.into())
}

fn too_many(positions: usize, max_tokens: usize, span: Span) -> Error {
    let found = format!("the alternatives have {positions} positions");
    refused(
        "too_many",
        span,
        limits::over(found, max_tokens, "max_tokens"),
    )
}

fn uncounted(positions: usize, span: Span) -> Error {
    let message = format!("alternatives of {positions} positions, more than the body has tokens");
    Error::new(Class::Alignment, "count", "", span.start, message)
}

/// `[rows, k]`, of which no product overflows.
fn shape(span: Span, body: &[u8], max_tokens: usize) -> Result<(usize, usize)> {
    let bad = || refused("shape", span, "a shape is [rows, k] with k of 1 or more");
    let mut cursor = Cursor::at(body, span.start);
    if cursor.kind()? != Kind::Array {
        return Err(bad());
    }
    let (mut sizes, mut count) = ([0u64; 2], 0);
    cursor.array(|cursor, i| {
        let size = cursor
            .integer(1 << 48)
            .filter(|&size| i < 2 && size < 1 << 31);
        sizes[i.min(1)] = size.ok_or_else(bad)?;
        count = i + 1;
        Ok(())
    })?;
    let [rows, width] = sizes.map(|size| size as usize);
    if count != 2 || width == 0 {
        return Err(bad());
    }
    if rows > max_tokens {
        return Err(too_many(rows, max_tokens, span));
    }
    Ok((rows, width))
}

fn is_dtype(span: Span, dtype: &str, body: &[u8]) -> Result<()> {
    let mut cursor = Cursor::at(body, span.start);
    if cursor.kind()? == Kind::String && cursor.string()?.is(dtype.as_bytes()) {
        return Ok(());
    }
    Err(refused("dtype", span, format!("dtype is {dtype}")))
}

/// A cursor of a list that may have more elements than there are tokens.
fn long(span: Span, body: &[u8]) -> Cursor<'_> {
    Cursor::at(body, span.start).with_max_tokens(usize::MAX)
}

fn same_count(found: usize, expected: usize, span: Span) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message = format!("{found} elements, the shape says {expected}");
    Err(refused("length", span, message))
}

/// The text of `count` items of four bytes.
fn text(span: Span, count: usize, body: &[u8]) -> Result<Blob> {
    let mut cursor = Cursor::at(body, span.start);
    let found = cursor.kind()?;
    if found != Kind::String {
        let message = format!("found {} where a base64 string was expected", found.name());
        return Err(refused("type", span, message));
    }
    let blob = Blob::read(&mut cursor)?;
    let text = blob.text(body);
    let bytes = text.decoded_len().map_err(malformed)?;
    if count.checked_mul(4) != Some(bytes) {
        let message = format!("{bytes} bytes of data, the shape says {count} items of 4");
        return Err(refused("length", span, message));
    }
    text.check().map_err(malformed)?;
    Ok(blob)
}

fn floats(span: Span, count: usize, body: &[u8]) -> Result<Buffer<f64>> {
    let blob = text(span, count, body)?;
    let values = doubles(&blob.text(body), false, 0, count).map_err(malformed)?;
    // Minus infinity is no log-probability, as everywhere.
    let wrong = |value: &f64| value.is_nan() || *value == f64::INFINITY;
    match values.as_slice().iter().position(wrong) {
        None => Ok(values),
        Some(i) => {
            let message = format!("{} is no log-probability", values.as_slice()[i]);
            Err(refused("range", span, message).under(&format!("[{i}]")))
        }
    }
}

fn packed_ids(span: Span, count: usize, body: &[u8]) -> Result<Buffer<i32>> {
    let blob = text(span, count, body)?;
    let ids = integers(&blob.text(body), 0, count).map_err(malformed)?;
    match ids.as_slice().iter().position(|&id| id < 0) {
        None => Ok(ids),
        Some(i) => {
            let message = format!("{} is no token id", ids.as_slice()[i]);
            Err(refused("range", span, message).under(&format!("[{i}]")))
        }
    }
}

/// An error of a text of base64, which is one of routed experts elsewhere.
fn malformed(error: Error) -> Error {
    match error.class {
        Class::RoutedExperts => Error {
            class: Class::Malformed,
            ..error
        },
        _ => error,
    }
}
