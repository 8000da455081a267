//! Arrays in base64, as prime-rl's server packs them: `{"data", "shape", "dtype"}` of one dimension, little-endian.

use crate::error::{Class, Error, Result};
use crate::experts::{Blob, Text, doubles, integers, piece};
use crate::json::{Cursor, Kind, Reader, misfit};
use crate::limits::{self, MAX_TOKEN_ID};
use crate::memory::Buffer;

use super::ids::{IdLists, Ids, Read};

/// The members of an object by name, each at most once; others are skipped. A null member is absent.
fn members<'a, const N: usize>(
    cursor: &mut Cursor<'a>,
    names: [&'static str; N],
    mut member: impl FnMut(&mut Cursor<'a>, &'static str) -> Result<()>,
) -> Result<()> {
    let mut seen = 0u8;
    cursor.object(|cursor, key| {
        let Some(index) = names.iter().position(|name| key.is(name.as_bytes())) else {
            return cursor.skip_value();
        };
        let name = names[index];
        if seen & 1 << index != 0 {
            let message = "the key stands there twice";
            return Err(refused("duplicate_key", name, key.at, message));
        }
        seen |= 1 << index;
        if cursor.null()? {
            return Ok(());
        }
        member(cursor, name)
    })
}

/// A packed array, not yet decoded.
struct Packed {
    data: Blob,
    count: usize,
    dtype: Dtype,
    /// Offset of `shape`.
    shape_at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dtype {
    Float32,
    Float64,
    Int32,
}

impl Dtype {
    const ALL: [(&'static str, Dtype); 3] = [
        ("float32", Dtype::Float32),
        ("float64", Dtype::Float64),
        ("int32", Dtype::Int32),
    ];

    fn size(self) -> usize {
        match self {
            Dtype::Float64 => 8,
            Dtype::Float32 | Dtype::Int32 => 4,
        }
    }
}

impl Packed {
    /// Reads the object at the cursor, whose dtype is one of those that `expected` says.
    fn read(cursor: &mut Cursor<'_>, floats: bool) -> Result<Self> {
        let at = cursor.pos;
        let (mut data, mut shape, mut dtype) = (None, None, None);
        members(cursor, ["data", "shape", "dtype"], |cursor, name| {
            match name {
                "data" => data = Some(text(cursor)?),
                "shape" => shape = Some((cursor.pos, length(cursor)?)),
                _ => dtype = Some(self::dtype(cursor, floats)?),
            }
            Ok(())
        })?;
        let missing = |name| {
            let message = "a packed array needs data, shape and dtype";
            Error::new(Class::Missing, "missing", name, at, message)
        };
        let data = data.ok_or_else(|| missing("data"))?;
        let (shape_at, count) = shape.ok_or_else(|| missing("shape"))?;
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        Ok(Self {
            data,
            count,
            dtype,
            shape_at,
        })
    }

    /// Fails unless the text is as long as the shape says, of which no element may be behind the ceiling of tokens.
    fn check_length(&self, cursor: &Cursor<'_>, per_token: bool) -> Result<()> {
        if per_token && self.count > cursor.max_tokens() {
            let found = format!("the array has {} elements", self.count);
            let message = limits::over(found, cursor.max_tokens(), "max_tokens");
            return Err(refused("too_many", "shape", self.shape_at, message));
        }
        let bytes = self.data.text(cursor.bytes).decoded_len();
        let bytes = bytes.map_err(malformed)?;
        if self.count.checked_mul(self.dtype.size()) != Some(bytes) {
            let message = format!(
                "a shape of {} elements of {} bytes for {bytes} bytes of data",
                self.count,
                self.dtype.size()
            );
            return Err(refused("length", "shape", self.shape_at, message));
        }
        Ok(())
    }

    /// The ids: int32 of 0 or more.
    fn ids(&self, cursor: &Cursor<'_>, per_token: bool) -> Result<Buffer<i32>> {
        self.check_length(cursor, per_token)?;
        let text = self.data.text(cursor.bytes);
        text.check().map_err(malformed)?;
        let ids = integers(&text, 0, self.count).map_err(malformed)?;
        match ids.as_slice().iter().position(|&id| id < 0) {
            None => Ok(ids),
            Some(i) => {
                let message = format!("{} is no id and no count", ids.as_slice()[i]);
                let at = self.data.at();
                Err(Error::new(
                    Class::Malformed,
                    "range",
                    format!("[{i}]"),
                    at,
                    message,
                ))
            }
        }
    }
}

/// A text of base64.
fn text(cursor: &mut Cursor<'_>) -> Result<Blob> {
    if cursor.byte() == Some(b'"') {
        return Blob::read(cursor);
    }
    let (at, found) = (cursor.pos, cursor.kind()?.name());
    let message = format!("found {found} where a base64 string was expected");
    Err(refused("type", "data", at, message))
}

/// `[n]`.
fn length(cursor: &mut Cursor<'_>) -> Result<usize> {
    let at = cursor.pos;
    let bad = || {
        refused(
            "shape",
            "shape",
            at,
            "a shape is [n], the number of elements",
        )
    };
    if cursor.byte() != Some(b'[') {
        return Err(bad());
    }
    let mut found = None;
    cursor.array(|cursor, i| {
        let value = cursor
            .integer(1 << 48)
            .filter(|&value| i == 0 && value < 1 << 48);
        found = Some(value.ok_or_else(bad)?);
        Ok(())
    })?;
    found.map(|n| n as usize).ok_or_else(bad)
}

fn dtype(cursor: &mut Cursor<'_>, floats: bool) -> Result<Dtype> {
    let at = cursor.pos;
    let found = match cursor.byte() {
        Some(b'"') => {
            let text = cursor.string()?;
            let named = Dtype::ALL.iter().find(|(name, _)| text.is(name.as_bytes()));
            named.map(|&(_, dtype)| dtype)
        }
        _ => None,
    };
    found
        .filter(|dtype| (*dtype != Dtype::Int32) == floats)
        .ok_or_else(|| {
            let message = match floats {
                true => "dtype is float32 or float64",
                false => "dtype is int32",
            };
            refused("dtype", "dtype", at, message)
        })
}

/// Fails at the first value that is no number.
fn finite(values: &[f64], at: usize) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(i) => {
            let message = format!("{} is not a finite number", values[i]);
            Err(Error::new(
                Class::Malformed,
                "range",
                format!("[{i}]"),
                at,
                message,
            ))
        }
    }
}

/// Log-probabilities, one for each token.
pub(crate) struct PackedLogprobs;

impl Reader for PackedLogprobs {
    type Value = Buffer<f64>;

    fn read(cursor: &mut Cursor<'_>) -> Read<Buffer<f64>> {
        if cursor.peek() != Some(b'{') {
            return Err(misfit(cursor, String::new(), "a packed array (an object)"));
        }
        let packed = Packed::read(cursor, true)?;
        packed.check_length(cursor, true)?;
        let text = packed.data.text(cursor.bytes);
        text.check().map_err(malformed)?;
        let wide = packed.dtype == Dtype::Float64;
        let values = doubles(&text, wide, 0, packed.count).map_err(malformed)?;
        finite(values.as_slice(), packed.data.at())?;
        Ok(values)
    }
}

/// A sampling mask: lists of ids, or prime-rl's `{"ids", "counts"}`.
pub(crate) struct Mask;

impl Reader for Mask {
    type Value = IdLists;

    #[inline(always)]
    fn read(cursor: &mut Cursor<'_>) -> Read<IdLists> {
        match cursor.peek() {
            Some(b'{') => Ok(packed_mask(cursor)?),
            _ => IdLists::read(cursor),
        }
    }
}

fn packed_mask(cursor: &mut Cursor<'_>) -> Result<IdLists> {
    let at = cursor.pos;
    let (mut ids, mut counts) = (None, None);
    members(cursor, ["ids", "counts"], |cursor, name| {
        if cursor.kind()? != Kind::Object {
            let (at, found) = (cursor.pos, cursor.kind()?.name());
            let message = format!("found {found} where a packed array (an object) was expected");
            return Err(refused("type", name, at, message));
        }
        let list = Packed::read(cursor, false).and_then(|it| it.ids(cursor, name == "counts"));
        let list = list.map_err(|error| error.under(name))?;
        match name {
            "ids" => ids = Some(list),
            _ => counts = Some(list),
        }
        Ok(())
    })?;
    let missing = |name| {
        let message = "a packed sampling mask needs ids and counts";
        Error::new(Class::Missing, "missing", name, at, message)
    };
    let ids = ids.ok_or_else(|| missing("ids"))?;
    let counts = counts.ok_or_else(|| missing("counts"))?;
    // A count becomes the end of the row before it.
    let mut offsets = counts.widened()?;
    offsets.push(0)?;
    let mut end = 0i64;
    for offset in offsets.as_mut_slice() {
        let count = std::mem::replace(offset, end);
        end += count;
    }
    if end != ids.len() as i64 {
        let message = format!("the counts add up to {end}, there are {} ids", ids.len());
        return Err(refused("length", "ids", at, message));
    }
    Ok(IdLists { ids, offsets })
}

/// `compact_logprobs`: for each token a row of ids and log-probabilities, which holds the sampled one.
#[derive(Debug)]
pub(crate) struct Compact {
    /// No id stands twice in a row.
    pub(crate) ids: Buffer<i32>,
    pub(crate) logprobs: Buffer<f64>,
    /// Where each row begins; one more than there are rows. No row is empty.
    pub(crate) offsets: Buffer<i64>,
    /// The first row in which an id stood twice, with different values, and the id.
    pub(crate) contradiction: Option<(usize, i32)>,
}

const FORMAT: &str = "u32-f32-le-v1";

impl Reader for Compact {
    type Value = Self;

    fn read(cursor: &mut Cursor<'_>) -> Read<Self> {
        if cursor.peek() != Some(b'{') {
            return Err(misfit(
                cursor,
                String::new(),
                "compact log-probabilities (an object)",
            ));
        }
        Ok(compact(cursor)?)
    }
}

fn compact(cursor: &mut Cursor<'_>) -> Result<Compact> {
    let at = cursor.pos;
    let (mut format, mut data, mut ends) = (false, None, None);
    members(cursor, ["format", "data", "offsets"], |cursor, name| {
        match name {
            "format" => {
                let at = cursor.pos;
                format = cursor.byte() == Some(b'"') && cursor.string()?.is(FORMAT.as_bytes());
                if !format {
                    let message = format!("the only format that is read is {FORMAT}");
                    return Err(refused("format", "format", at, message));
                }
            }
            "data" => data = Some(text(cursor)?),
            _ => {
                let at = cursor.pos;
                // One more than there are tokens.
                let mut list = cursor
                    .clone()
                    .with_max_tokens(cursor.max_tokens().saturating_add(1));
                let read = list.field::<Ids>()?;
                cursor.pos = list.pos;
                ends = Some((at, read.map_err(|error| error.under("offsets"))?));
            }
        }
        Ok(())
    })?;
    let missing = |name| {
        let message = "compact log-probabilities need format, data and offsets";
        Error::new(Class::Missing, "missing", name, at, message)
    };
    if !format {
        return Err(missing("format"));
    }
    let data = data.ok_or_else(|| missing("data"))?;
    let (offsets_at, ends) = ends.ok_or_else(|| missing("offsets"))?;
    let wrong = |i: usize| {
        let message = "the offsets begin with 0 and rise: every row has an entry";
        Error::new(
            Class::Malformed,
            "offsets",
            format!("offsets[{i}]"),
            offsets_at,
            message,
        )
    };
    if ends.as_slice().first() != Some(&0) {
        return Err(wrong(0));
    }
    if let Some(i) = ends
        .as_slice()
        .windows(2)
        .position(|pair| pair[1] <= pair[0])
    {
        return Err(wrong(i + 1));
    }
    let count = ends.as_slice()[ends.len() - 1] as usize;
    let text = data.text(cursor.bytes);
    let bytes = text.decoded_len().map_err(malformed)?;
    if count.checked_mul(8) != Some(bytes) {
        let message = format!("{count} entries of 8 bytes for {bytes} bytes of data");
        return Err(refused("length", "data", data.at(), message));
    }
    text.check().map_err(malformed)?;
    let mut rows = Compact {
        ids: Buffer::with_capacity(count)?,
        logprobs: Buffer::with_capacity(count)?,
        offsets: ends.widened()?,
        contradiction: None,
    };
    rows.take(&text, count, data.at())?;
    Ok(rows)
}

/// Entries that are decoded at a time.
const BLOCK: usize = 1 << 10;

impl Compact {
    /// Takes the entries of rows whose offsets are known. What stands in a row a second time is left out: the engine
    /// writes the sampled token and then the best ones, of which it may be one.
    fn take(&mut self, text: &Text<'_>, count: usize, at: usize) -> Result<()> {
        let (mut names, mut values) = ([0i32; BLOCK], [0f32; BLOCK]);
        let (mut row, mut first) = (0, 0);
        for start in (0..count).step_by(BLOCK) {
            let len = BLOCK.min(count - start);
            let (names, values) = (&mut names[..len], &mut values[..len]);
            piece(text, 4 * start, names).map_err(malformed)?;
            piece(text, 4 * (count + start), values).map_err(malformed)?;
            // As unsigned numbers, those beyond the largest id are negative here.
            if names.iter().any(|&id| id < 0) {
                let message = format!("a token id is at most {MAX_TOKEN_ID}");
                return Err(refused("range", "data", at, message));
            }
            if values.iter().any(|value| !value.is_finite()) {
                let message = "a log-probability is no finite number";
                return Err(refused("range", "data", at, message));
            }
            for (i, (&name, &value)) in names.iter().zip(&*values).enumerate() {
                let offsets = self.offsets.as_mut_slice();
                if start + i == offsets[row + 1] as usize {
                    row += 1;
                    // Its end is still that of the wire.
                    (offsets[row], first) = (self.ids.len() as i64, self.ids.len());
                }
                let value = f64::from(value);
                let known = &self.ids.as_slice()[first..];
                match known.iter().position(|&id| id == name) {
                    None => {
                        self.ids.push(name)?;
                        self.logprobs.push(value)?;
                    }
                    Some(j) if self.logprobs.as_slice()[first + j].to_bits() == value.to_bits() => {
                    }
                    Some(_) => self.contradiction = self.contradiction.or(Some((row, name))),
                }
            }
        }
        if let Some(last) = self.offsets.as_mut_slice().last_mut() {
            *last = self.ids.len() as i64;
        }
        Ok(())
    }
}

/// An error of a text of base64, which is one of routed experts elsewhere.
fn malformed(error: Error) -> Error {
    let class = match error.class {
        Class::RoutedExperts => Class::Malformed,
        class => class,
    };
    Error { class, ..error }.under("data")
}

#[cold]
fn refused(
    kind: &'static str,
    path: &'static str,
    at: usize,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(Class::Malformed, kind, path, at, message)
}
