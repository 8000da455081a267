//! Which rows there are, which are wanted, and their values.

use super::blob::{Text, refused};
use super::container::Container;
use super::fill::{raw, widened};
use super::npy;
use super::trim::{Sequence, Trimmed, trim};
use crate::base64::{self, Element};
use crate::error::{Class, Error, Result};
use crate::limits;
use crate::memory::Buffer;
use crate::options::{ExpertsMode, Options};

/// Where int32 rows go.
#[derive(Debug)]
pub(crate) enum Target<'o> {
    /// Memory of our own.
    Own,
    /// The caller's array.
    Into(&'o mut [i32]),
}

/// The shape of a row: keywords, and what the caller gave.
type Row = [(&'static str, Option<u64>); 2];

/// What an engine captured of its forward passes, a row for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    /// The experts that the router chose.
    Experts,
    /// What the indexer of a sparse attention chose. A slot that it left empty is -1.
    Indexer,
}

impl Capture {
    /// What the rows are, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Capture::Experts => "routed experts",
            Capture::Indexer => "indexer rows",
        }
    }

    /// Layers and top k of a row by their keywords, as far as the caller gave them.
    pub(crate) fn row(self, options: &Options<'_>) -> Row {
        match self {
            Capture::Experts => [("num_layers", options.num_layers), ("top_k", options.top_k)],
            Capture::Indexer => [
                ("num_indexer_layers", options.num_indexer_layers),
                ("index_topk", options.index_topk),
            ],
        }
    }
}

/// Decoded rows.
#[derive(Debug)]
pub struct Routed {
    /// Expert ids in C order; of an indexer what it chose.
    pub values: ExpertIds,
    /// Rows, layers, top_k.
    pub shape: [usize; 3],
    /// Sequence position of row 0.
    pub start: u64,
    /// Integer type on the wire.
    pub dtype: Element,
    /// No row is missing.
    pub complete: bool,
    /// Rows in front that the container has although they are not wanted.
    pub dropped: u64,
    /// The position behind the rows of the container; None where an aborted completion has none.
    pub(crate) reach: Option<u64>,
}

/// Expert ids in C order.
#[derive(Debug)]
pub enum ExpertIds {
    /// As on the wire.
    U8(Buffer<u8>),
    /// As on the wire.
    U16(Buffer<u16>),
    /// As on the wire.
    I16(Buffer<i16>),
    /// As on the wire, or widened.
    I32(Buffer<i32>),
    /// At the start of the caller's array.
    Written,
}

/// A blob with its geometry, before trimming.
struct Rows<'a> {
    text: Text<'a>,
    dtype: Element,
    shape: [u64; 3],
    /// None for containers that do not say.
    start: Option<u64>,
    /// Decoded bytes in front of row 0.
    header: usize,
}

/// Checks a container against the options and decodes the wanted rows. Paths of errors are relative to the field.
pub(crate) fn decode_rows(
    container: &Container,
    body: &[u8],
    options: &Options<'_>,
    capture: Capture,
    sequence: &Sequence,
    target: Target<'_>,
) -> Result<Routed> {
    let rows = Rows::measure(container, body, options, capture)?;
    let at = container.at();
    check_rows(options, rows.shape[0], at)?;
    let trimmed = trim(rows.shape[0], rows.start, at, options, sequence)?;
    rows.text
        .check()
        .map_err(|error| error.under(rows.path()))?;
    match capture {
        Capture::Experts => rows.decode(&trimmed, at, sequence.aborted, options.experts, target),
        Capture::Indexer => rows.decode_indexer(&trimmed, at),
    }
}

impl<'a> Rows<'a> {
    /// The path of the blob, relative to the field.
    fn path(&self) -> &'static str {
        if self.start.is_some() { "data" } else { "" }
    }

    fn measure(
        container: &Container,
        body: &'a [u8],
        options: &Options<'_>,
        capture: Capture,
    ) -> Result<Self> {
        let told = capture.row(options);
        let (rows, at) = match container {
            Container::Object { object, .. } => {
                let object = object.as_ref().map_err(Clone::clone)?;
                let rows = Rows {
                    text: object.data.text(body),
                    dtype: object.dtype,
                    shape: object.shape,
                    start: Some(object.start),
                    header: 0,
                };
                rows.check_size(object.data.at, |[_, layers, top_k]| {
                    check_expected(told, [layers, top_k], object.shape_at)
                        .map_err(|error| error.under("shape"))
                })?;
                return Ok(rows);
            }
            Container::Text { at, blob } => {
                let text = blob.text(body);
                if !text.text.starts_with(npy::SIGN) {
                    return Self::bare(text, *at, told, capture);
                }
                let decoded = text.decoded_len()?;
                let header = npy::header(&text, decoded, npy::integers, NPY)?
                    .map_err(|message| refused("npy", *at, message))?;
                let rows = Rows {
                    text,
                    dtype: header.dtype,
                    shape: header.shape,
                    start: None,
                    header: header.data,
                };
                (rows, *at)
            }
            Container::Other { at, kind } => return Err(wrong_type(*at, kind.name(), capture)),
        };
        rows.check_size(at, |[_, layers, top_k]| {
            check_expected(told, [layers, top_k], at)
        })?;
        Ok(rows)
    }

    fn bare(text: Text<'a>, at: usize, told: Row, capture: Capture) -> Result<Self> {
        let [(_, Some(layers)), (_, Some(top_k))] = told else {
            let [(layers, _), (top_k, _)] = told;
            let message = format!(
                "{} are bare int32 rows without a shape: pass {layers}= and {top_k}=",
                capture.name()
            );
            return Err(Error::new(
                Class::Argument,
                "needs_num_layers",
                "",
                at,
                message,
            ));
        };
        let decoded = text.decoded_len()? as u64;
        let row = layers
            .checked_mul(top_k)
            .filter(|&values| values > 0 && values < MAX_ROW)
            .map(|values| 4 * values);
        match row {
            Some(row) if decoded.is_multiple_of(row) => Ok(Rows {
                text,
                dtype: Element::I32,
                shape: [decoded / row, layers, top_k],
                start: None,
                header: 0,
            }),
            _ => Err(refused(
                "size",
                at,
                format!("{decoded} bytes of int32 are not whole rows of {layers} layers x {top_k}"),
            )),
        }
    }

    /// The text's length, then `between`, then that shape, width and text agree.
    fn check_size(&self, at: usize, between: impl FnOnce([u64; 3]) -> Result<()>) -> Result<()> {
        let decoded = self
            .text
            .decoded_len()
            .map_err(|error| error.under(self.path()))?;
        between(self.shape)?;
        let [rows, layers, top_k] = self.shape;
        let bytes = layers
            .checked_mul(top_k)
            .filter(|&values| values < MAX_ROW)
            .and_then(|values| rows.checked_mul(values))
            .and_then(|values| values.checked_mul(self.dtype.size() as u64))
            .and_then(|bytes| bytes.checked_add(self.header as u64));
        if bytes != Some(decoded as u64) {
            let dtype = self.dtype.name();
            return Err(refused(
                "size",
                at,
                format!("[{rows}, {layers}, {top_k}] of {dtype} does not fit {decoded} bytes"),
            )
            .under(self.path()));
        }
        Ok(())
    }

    /// The rows of an indexer, where -1 is an empty slot.
    fn decode_indexer(&self, trimmed: &Trimmed, at: usize) -> Result<Routed> {
        let [rows, layers, top_k] = self.shape.map(|size| size as usize);
        let (rows, row) = (rows - trimmed.drop as usize, layers * top_k);
        let skip = self.header + trimmed.drop as usize * row * self.dtype.size();
        let text = &self.text.text;
        let failed = |at| refused("base64", self.text.place(at), "not base64").under(self.path());
        let (values, negative) = widened(text, self.dtype, skip, rows * row, failed)?;
        if negative && let Some(i) = values.as_slice().iter().position(|&index| index < -1) {
            let message = format!(
                "the index is {} at position {}, layer {}, slot {}: neither an index nor -1, an empty slot",
                values.as_slice()[i],
                trimmed.start + (i / row) as u64,
                i % row / top_k,
                i % top_k,
            );
            return Err(refused("range", at, message));
        }
        Ok(Routed {
            values: ExpertIds::I32(values),
            shape: [rows, layers, top_k],
            start: trimmed.start,
            dtype: self.dtype,
            complete: trimmed.complete,
            dropped: trimmed.drop,
            reach: trimmed.reach,
        })
    }

    fn decode(
        &self,
        trimmed: &Trimmed,
        at: usize,
        aborted: bool,
        mode: ExpertsMode,
        target: Target<'_>,
    ) -> Result<Routed> {
        // All of these fit: they are at most the decoded length, which was measured, except layers and top_k of no rows.
        let [rows, layers, top_k] = self.shape.map(|size| size as usize);
        let row = layers * top_k;
        let count = (rows - trimmed.drop as usize) * row;
        let skip = self.header + trimmed.drop as usize * row * self.dtype.size();
        let text = &self.text.text;
        let failed = |at| refused("base64", self.text.place(at), "not base64").under(self.path());
        let mut kept = rows - trimmed.drop as usize;
        let routes = Routes {
            layers,
            top_k,
            aborted,
            at,
            start: trimmed.start,
        };
        let values = match (mode, self.dtype, target) {
            (ExpertsMode::Native, Element::U8, _) => ExpertIds::U8(raw(text, skip, count, failed)?),
            (ExpertsMode::Native, Element::U16, _) => {
                ExpertIds::U16(raw(text, skip, count, failed)?)
            }
            (ExpertsMode::Native, Element::I16, _) => {
                let mut values = raw::<i16>(text, skip, count, failed)?;
                if values.as_slice().iter().fold(0, |all, id| all | id) < 0 {
                    kept = routes.captured(values.as_slice())?;
                    values.truncate(kept * row);
                }
                ExpertIds::I16(values)
            }
            (_, dtype, Target::Own) => {
                let (mut values, negative) = widened(text, dtype, skip, count, failed)?;
                if negative {
                    kept = routes.captured(values.as_slice())?;
                    values.truncate(kept * row);
                }
                ExpertIds::I32(values)
            }
            (_, dtype, Target::Into(out)) => {
                let out = room(out, count)?;
                if base64::widen(text, dtype, skip, out).map_err(failed)? {
                    kept = routes.captured(out)?;
                }
                ExpertIds::Written
            }
        };
        Ok(Routed {
            values,
            shape: [kept, layers, top_k],
            start: trimmed.start,
            dtype: self.dtype,
            complete: trimmed.complete && kept == rows - trimmed.drop as usize,
            dropped: trimmed.drop,
            reach: trimmed.reach,
        })
    }
}

/// Fails unless the shape of a row is what the caller said.
pub(crate) fn check_expected(told: Row, found: [u64; 2], at: usize) -> Result<()> {
    for ((name, given), found) in told.into_iter().zip(found) {
        if let Some(given) = given
            && given != found
        {
            let message = format!("{name} is {found} in the response, {given} was expected");
            return Err(refused("shape", at, message));
        }
    }
    Ok(())
}

/// Fails if there are more rows than the caller allows.
pub(crate) fn check_rows(options: &Options<'_>, rows: u64, at: usize) -> Result<()> {
    let ceiling = options.limits.max_rows;
    if rows > ceiling {
        let found = format!("{rows} rows of routed experts");
        let message = limits::over(found, ceiling, "max_rows");
        return Err(refused("too_many", at, message));
    }
    Ok(())
}

/// The front of the caller's array.
pub(crate) fn room(out: &mut [i32], count: usize) -> Result<&mut [i32]> {
    let len = out.len();
    out.get_mut(..count).ok_or_else(|| {
        let message = format!("experts_out holds {len} values, {count} are needed");
        Error::new(Class::Argument, "experts_out", "", None, message)
    })
}

/// What negative ids among the rows are judged by.
struct Routes {
    layers: usize,
    top_k: usize,
    aborted: bool,
    at: usize,
    start: u64,
}

impl Routes {
    /// How many rows have a route. SGLang and NeMo-RL write -1 where none was captured; only whole rows at the end of an
    /// aborted completion may be so, and are missing then.
    #[cold]
    fn captured<T: Copy + Into<i32>>(&self, values: &[T]) -> Result<usize> {
        let row = self.layers * self.top_k;
        let negative = |&id: &T| id.into() < 0;
        let Some(first) = values.iter().position(negative) else {
            return Ok(values.len() / row);
        };
        let none = |&id: &T| id.into() == -1;
        if self.aborted && first.is_multiple_of(row) && values[first..].iter().all(none) {
            return Ok(first / row);
        }
        let (position, within) = (self.start + (first / row) as u64, first % row);
        let message = format!(
            "the expert id is {} at position {position}, layer {}, slot {}: the engine captured no route there",
            values[first].into(),
            within / self.top_k,
            within % self.top_k,
        );
        Err(refused("no_route", self.at, message))
    }
}

const NPY: &str = "the npy header is not a C-order array of rows, layers and top_k of uint8, uint16, int16 or int32";

/// ExpertIds of a row that numpy could not address.
const MAX_ROW: u64 = 1 << 61;

#[cold]
fn wrong_type(at: usize, found: &str, capture: Capture) -> Error {
    let message = format!("found {found} where {} were expected", capture.name());
    refused("type", at, message)
}
