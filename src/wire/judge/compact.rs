//! prime-rl's rows of ids and log-probabilities: the sampled token's value, and the alternatives.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::wire::decoded::TopLogprobs;
use crate::wire::read::packed::Compact;
use crate::wire::sentinel::{first_too_high, or_nan, positive_logprob};

use super::sampled::Sampled;

impl Sampled<'_> {
    /// The sampled tokens' values.
    pub(crate) fn check_compact(
        &self,
        rows: &Compact,
        path: &str,
        at: usize,
    ) -> Result<Buffer<f64>> {
        let mut values = Buffer::with_capacity(self.ids.len())?;
        for (i, bounds) in rows.offsets.as_slice().windows(2).enumerate() {
            let place = || (format!("{path}[{i}]"), Some(at));
            if let Some((row, id)) = rows.contradiction
                && row == i
            {
                return Err(contradiction(id, place().0, at));
            }
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            let mut names = rows.ids.as_slice()[first..end].iter();
            let Some(j) = names.position(|name| *name == self.ids[i]) else {
                let (path, at) = place();
                return Err(self.identity(i, "other tokens only", path, at));
            };
            let mut value = rows.logprobs.as_slice()[first + j];
            self.settle(&mut value, place)?;
            values.push(value)?;
        }
        Ok(values)
    }

    /// The rows as alternatives, after [`check_compact`](Self::check_compact).
    pub(crate) fn top_of_compact(
        &self,
        mut rows: Compact,
        path: &str,
        at: usize,
    ) -> Result<Option<TopLogprobs<Buffer<f64>>>> {
        if let Some(i) = first_too_high(rows.logprobs.as_slice()) {
            let offsets = rows.offsets.as_slice();
            let row = offsets.partition_point(|&offset| offset as usize <= i) - 1;
            let path = format!("{path}[{row}]");
            return Err(positive_logprob(
                rows.logprobs.as_slice()[i],
                path,
                Some(at),
            ));
        }
        for value in rows.logprobs.as_mut_slice() {
            *value = or_nan(*value);
        }
        Ok((!rows.ids.is_empty()).then_some(TopLogprobs {
            token_ids: rows.ids,
            logprobs: rows.logprobs,
            offsets: rows.offsets,
        }))
    }
}

#[cold]
fn contradiction(id: i32, path: String, at: usize) -> Error {
    let message = format!("token {id} stands there twice, with different log-probabilities");
    Error::new(Class::Alignment, "contradiction", path, at, message)
}
