//! The type of the log-probabilities that come out: the values of a judged list, rounded where the caller asks for it.

use super::{PromptLogprobs, Top};
use dynamo_tito::{Class, Error, LogprobsDtype, Options, Result};

/// Half way from the largest float32 to the power of two behind it: from here on a value rounds to infinity.
const TOO_WIDE: f64 = 340_282_356_779_733_661_637_539_395_458_142_568_448.0;

/// The values of a list at `path`, of which `position` says whose they are.
pub(super) fn values(
    values: &mut [f64],
    position: impl Fn(usize) -> usize,
    path: &str,
    options: &Options<'_>,
) -> Result<()> {
    if options.logprobs_dtype == LogprobsDtype::Float64 {
        return Ok(());
    }
    for (i, value) in values.iter_mut().enumerate() {
        if value.abs() >= TOO_WIDE {
            let path = format!("{path}[{}]", position(i));
            let message = format!("{value} is no float32");
            return Err(Error::new(Class::Malformed, "range", path, None, message));
        }
        *value = f64::from(*value as f32);
    }
    Ok(())
}

/// Alternatives of each position.
pub(super) fn top(top: &mut Top, path: &str, options: &Options<'_>) -> Result<()> {
    let ends = &top.offsets[1..];
    let position = |i: usize| ends.iter().filter(|&&end| end <= i as i64).count();
    values(&mut top.logprobs, position, path, options)
}

/// The prompt's own, then every entry.
pub(super) fn prompt(read: &mut PromptLogprobs, path: &str, options: &Options<'_>) -> Result<()> {
    values(&mut read.logprobs, |i| i, path, options)?;
    top(&mut read.top, path, options)
}
