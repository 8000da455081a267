//! Columns of log-probabilities in the type that the caller asks for. They are judged as float64 before.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::options::LogprobsDtype;

use super::decoded::{Prompt, PromptLogprobs, TopLogprobs};

/// A column of log-probabilities.
#[derive(Debug)]
pub enum Floats {
    /// As read.
    F64(Buffer<f64>),
    /// Each rounded once, to the nearest.
    F32(Buffer<f32>),
}

impl Floats {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Floats::F64(values) => values.len(),
            Floats::F32(values) => values.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, widened.
    pub fn iter(&self) -> impl Iterator<Item = f64> + '_ {
        let (wide, narrow) = match self {
            Floats::F64(values) => (values.as_slice(), &[][..]),
            Floats::F32(values) => (&[][..], values.as_slice()),
        };
        wide.iter()
            .copied()
            .chain(narrow.iter().copied().map(f64::from))
    }

    /// A judged column in the type of `dtype`. `position` is that of the token of a value. `path` is the column's channel.
    pub(crate) fn new(
        values: Buffer<f64>,
        dtype: LogprobsDtype,
        path: &str,
        position: impl FnOnce(usize) -> usize,
    ) -> Result<Self> {
        if dtype == LogprobsDtype::Float64 {
            return Ok(Floats::F64(values));
        }
        match first_too_wide(values.as_slice()) {
            None => Ok(Floats::F32(values.into_f32())),
            Some(i) => Err(too_wide(
                values.as_slice()[i],
                format!("{path}[{}]", position(i)),
            )),
        }
    }
}

/// The position of the first value that is infinite as float32.
fn first_too_wide(values: &[f64]) -> Option<usize> {
    let is_too_wide = |value: f64| (value as f32).is_infinite();
    // A word per value, as in `first_too_high`.
    let any = values
        .iter()
        .fold(0, |any, &value| any | u64::from(is_too_wide(value)));
    if any == 0 {
        return None;
    }
    values.iter().position(|&value| is_too_wide(value))
}

#[cold]
fn too_wide(value: f64, path: String) -> Error {
    Error::new(
        Class::Malformed,
        "range",
        path,
        None,
        format!("found {value:e}, which float32 does not have; logprobs_dtype=\"float64\" does"),
    )
}

impl TopLogprobs<Buffer<f64>> {
    /// The same in the type of `dtype`. `path` is the channel.
    pub(crate) fn typed(self, dtype: LogprobsDtype, path: &str) -> Result<TopLogprobs> {
        let offsets = self.offsets.as_slice();
        let position = |i| offsets.partition_point(|&offset| offset as usize <= i) - 1;
        Ok(TopLogprobs {
            token_ids: self.token_ids,
            logprobs: Floats::new(self.logprobs, dtype, path, position)?,
            offsets: self.offsets,
        })
    }
}

impl Prompt<Buffer<f64>> {
    /// The same in the type of `dtype`.
    pub(crate) fn typed(self, dtype: LogprobsDtype) -> Result<Prompt> {
        let path = self
            .sources
            .iter()
            .find_map(|(name, path)| (*name == "prompt_logprobs").then_some(path.as_str()))
            .unwrap_or_default();
        let logprobs = self.logprobs.map(|found| {
            Ok::<_, Error>(PromptLogprobs {
                logprobs: Floats::new(found.logprobs, dtype, path, |i| i)?,
                top: found.top.typed(dtype, path)?,
            })
        });
        Ok(Prompt {
            logprobs: logprobs.transpose()?,
            token_ids: self.token_ids,
            token_id_logprobs: self.token_id_logprobs,
            sources: self.sources,
        })
    }
}
