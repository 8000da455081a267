//! The tensors of a choice as columns, but for its routes.

use super::manifest::{Choice, Dtype, Scores, Tensor};
use super::msgpack::refused;
use super::open::Contents;
use super::routes::Routes;
use crate::error::{Class, Error, Result};
use crate::limits::{self, MAX_TOKEN_ID};
use crate::memory::{Buffer, Plain};
use crate::options::Options;

/// The values of a tensor.
#[derive(Debug)]
pub(crate) struct Column<T: Plain> {
    /// Offset of the tensor's entry in the manifest.
    pub(crate) at: usize,
    pub(crate) values: Buffer<T>,
}

/// Candidates: as many at each position.
#[derive(Debug)]
pub(crate) struct Top {
    /// Offset of the tensor's entry in the manifest.
    pub(crate) at: usize,
    pub(crate) ids: Buffer<i32>,
    pub(crate) logprobs: Buffer<f64>,
    pub(crate) per_position: usize,
}

/// One completion.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) index: u32,
    pub(crate) prompt: Column<i32>,
    pub(crate) completion: Column<i32>,
    /// Finite, or minus infinity.
    pub(crate) selected: Option<Column<f64>>,
    /// Finite, or minus infinity.
    pub(crate) top: Option<Top>,
    pub(crate) routes: Option<Routes>,
}

impl Artifact {
    pub(super) fn new(contents: Contents, choice: Choice, options: &Options<'_>) -> Result<Self> {
        let tensors = &contents.bytes.as_slice()[contents.tensors..];
        let columns = Columns::read(tensors, &choice, options.limits.max_tokens);
        let columns = columns.map_err(|error| error.under("choices[0]"))?;
        Ok(Self {
            index: choice.index,
            prompt: columns.prompt,
            completion: columns.completion,
            selected: columns.selected,
            top: columns.top,
            routes: choice.routes.map(|routes| Routes::new(contents, routes)),
        })
    }
}

/// Columns of the completion and of the prompt.
struct Columns {
    prompt: Column<i32>,
    completion: Column<i32>,
    selected: Option<Column<f64>>,
    top: Option<Top>,
}

impl Columns {
    fn read(tensors: &[u8], choice: &Choice, max_tokens: usize) -> Result<Self> {
        let (prompt, sequence) = (choice.prompt, &choice.sequence);
        let (at, len) = (sequence.at, sequence.shape[0]);
        check_rows(sequence, max_tokens).map_err(|error| error.under("sequence_token_ids"))?;
        let part = |range| match ids(tensors, sequence, range) {
            Ok(values) => Ok(Column { at, values }),
            Err(error) => Err(error.under("sequence_token_ids")),
        };
        let mut columns = Self {
            prompt: part([0, prompt])?,
            completion: part([prompt, len])?,
            selected: None,
            top: None,
        };
        if let Some(scores) = &choice.selected {
            let values = floats(tensors, scores, prompt, max_tokens);
            columns.selected = Some(Column {
                at: scores.logprobs.at,
                values: values.map_err(|error| error.under("selected_logprobs"))?,
            });
        }
        if let Some(scores) = &choice.top
            && let Some(list) = &scores.ids
        {
            let top = top(tensors, scores, list, prompt, max_tokens);
            columns.top = Some(top.map_err(|error| error.under("topk_logprobs"))?);
        }
        if let (Some(selected), Some(top)) = (&columns.selected, &columns.top)
            && choice.same_width()
        {
            same_values(columns.completion.values.as_slice(), selected, top)?;
        }
        Ok(columns)
    }
}

/// Fails if a tensor has a row for more tokens than the caller allows.
fn check_rows(tensor: &Tensor, max_tokens: usize) -> Result<()> {
    let rows = tensor.shape[0];
    if rows > max_tokens {
        let found = format!("the tensor has {rows} rows");
        let message = limits::over(found, max_tokens, "max_tokens");
        return Err(refused("too_many", tensor.at, message));
    }
    Ok(())
}

/// The ids of the rows `from..to`.
fn ids(tensors: &[u8], tensor: &Tensor, [from, to]: [usize; 2]) -> Result<Buffer<i32>> {
    fn read<const N: usize>(
        tensor: &Tensor,
        bytes: &[u8],
        first: usize,
        value: impl Fn([u8; N]) -> i64,
    ) -> Result<Buffer<i32>> {
        let items = bytes.as_chunks().0;
        let mut ids = Buffer::with_capacity(items.len())?;
        for (i, item) in items.iter().enumerate() {
            let value = value(*item);
            match i32::try_from(value) {
                Ok(id @ 0..) => ids.push(id)?,
                _ => {
                    let message = format!("{value} is no token id (0 to {MAX_TOKEN_ID})");
                    return Err(tensor.unfit(first + i, message));
                }
            }
        }
        Ok(ids)
    }
    let columns = tensor.shape[1];
    let (first, count) = (from * columns, tensor.shape[0] * columns);
    let width = tensor.bytes / count.max(1);
    let bytes = &tensor.of(tensors)[first * width..to * columns * width];
    match tensor.dtype {
        Dtype::U8 => read(tensor, bytes, first, |item| u8::from_le_bytes(item).into()),
        Dtype::U16 => read(tensor, bytes, first, |item| u16::from_le_bytes(item).into()),
        Dtype::I32 => read(tensor, bytes, first, |item| i32::from_le_bytes(item).into()),
        _ => read(tensor, bytes, first, i64::from_le_bytes),
    }
}

/// Log-probabilities, which must begin with the completion.
fn floats(
    tensors: &[u8],
    scores: &Scores,
    prompt: usize,
    max_tokens: usize,
) -> Result<Buffer<f64>> {
    fn read<const N: usize>(
        tensor: &Tensor,
        bytes: &[u8],
        value: impl Fn([u8; N]) -> f32,
    ) -> Result<Buffer<f64>> {
        let items = bytes.as_chunks().0;
        let mut values = Buffer::with_capacity(items.len())?;
        for (i, item) in items.iter().enumerate() {
            let value = value(*item);
            if value.is_nan() || value == f32::INFINITY {
                let message = format!("{value} is no log-probability");
                return Err(tensor.unfit(i, message).under("logprobs"));
            }
            values.push(value.into())?;
        }
        Ok(values)
    }
    let tensor = &scores.logprobs;
    if scores.start != prompt as u64 {
        let message = format!(
            "log-probabilities from position {} on, the completion begins at {prompt}",
            scores.start
        );
        let (class, kind) = (Class::Alignment, "start");
        return Err(Error::new(class, kind, "token_start", tensor.at, message));
    }
    check_rows(tensor, max_tokens).map_err(|error| error.under("logprobs"))?;
    let bytes = tensor.of(tensors);
    match tensor.dtype {
        Dtype::F16 => read(tensor, bytes, |item| half(u16::from_le_bytes(item))),
        Dtype::Bf16 => read(tensor, bytes, |item| {
            f32::from_bits(u32::from(u16::from_le_bytes(item)) << 16)
        }),
        _ => read(tensor, bytes, f32::from_le_bytes),
    }
}

/// A half-precision number.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // Subnormal: so many times 2^-24.
        0 => (fraction as f32 * (-24_f32).exp2()).to_bits(),
        31 => 0xff << 23 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

fn top(
    tensors: &[u8],
    scores: &Scores,
    list: &Tensor,
    prompt: usize,
    max_tokens: usize,
) -> Result<Top> {
    let logprobs = floats(tensors, scores, prompt, max_tokens)?;
    let ids = ids(tensors, list, [0, list.shape[0]]);
    Ok(Top {
        at: scores.logprobs.at,
        ids: ids.map_err(|error| error.under("candidate_token_ids"))?,
        logprobs,
        per_position: list.shape[1],
    })
}

/// Fails where a candidate is the sampled token and has another log-probability than it: the two are of different rows.
fn same_values(sampled: &[i32], selected: &Column<f64>, top: &Top) -> Result<()> {
    let rows = top.ids.as_slice().chunks(top.per_position);
    let rows = rows.zip(top.logprobs.as_slice().chunks(top.per_position));
    let chosen = sampled.iter().zip(selected.values.as_slice());
    for (i, ((id, value), (ids, values))) in chosen.zip(rows).enumerate() {
        let j = ids.iter().position(|candidate| candidate == id);
        if let Some(j) = j
            && values[j] != *value
        {
            let message = format!("token {id} has {}, it was sampled with {value}", values[j]);
            let path = format!("topk_logprobs.logprobs[{i}][{j}]");
            return Err(Error::new(
                Class::Alignment,
                "identity",
                path,
                top.at,
                message,
            ));
        }
    }
    Ok(())
}
