//! prime-rl's rows of ids and log-probabilities: the sampled token's value, and the alternatives.

use crate::error::{Class, Error, Result};
use crate::memory::Buffer;
use crate::wire::decoded::TopLogprobs;
use crate::wire::read::packed::Compact;
use crate::wire::sentinel::{first_too_high, or_nan, positive_logprob};

use super::sampled::Sampled;

impl Sampled<'_> {
    /// The sampled tokens' values; drops what stands in a row a second time. The engine writes the sampled token and then
    /// the best ones, of which it may be one.
    pub(crate) fn check_compact(
        &self,
        rows: &mut Compact,
        path: &str,
        at: usize,
    ) -> Result<Buffer<f64>> {
        let mut values = Buffer::with_capacity(self.ids.len())?;
        let mut kept = 0;
        for (i, &id) in self.ids.iter().enumerate() {
            let row = rows.offsets.as_slice()[i] as usize..rows.offsets.as_slice()[i + 1] as usize;
            rows.offsets.as_mut_slice()[i] = kept as i64;
            let first = kept;
            let mut sampled = None;
            for entry in row {
                let (ids, logprobs) = (rows.ids.as_mut_slice(), rows.logprobs.as_mut_slice());
                let (name, value) = (ids[entry], logprobs[entry]);
                if let Some(j) = ids[first..kept].iter().position(|&it| it == name) {
                    if logprobs[first + j].to_bits() != value.to_bits() {
                        return Err(contradiction(name, format!("{path}[{i}]"), at));
                    }
                    continue;
                }
                if name == id {
                    sampled = Some(value);
                }
                (ids[kept], logprobs[kept]) = (name, value);
                kept += 1;
            }
            let place = || (format!("{path}[{i}]"), Some(at));
            let Some(mut value) = sampled else {
                let (path, at) = place();
                return Err(self.identity(i, "other tokens only", path, at));
            };
            self.settle(&mut value, place)?;
            values.push(value)?;
        }
        if let Some(last) = rows.offsets.as_mut_slice().last_mut() {
            *last = kept as i64;
        }
        rows.ids.truncate(kept);
        rows.logprobs.truncate(kept);
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
