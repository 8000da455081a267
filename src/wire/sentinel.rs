//! Values that are no log-probability: those that engines write where they have none, and those above 0.

use crate::error::{Class, Error};
use crate::limits::MAX_LOGPROB;

/// What vLLM writes for a token without an entry, and for -inf.
const VLLM: f64 = -9999.0;
/// What Dynamo writes for a value that is not finite.
const DYNAMO: f64 = -1e30;
/// [`DYNAMO`], rounded to an f32.
const DYNAMO_F32: f64 = -1e30f32 as f64;

/// Whether a written value means "no logprob". Artifacts have minus infinity itself.
#[inline(always)]
pub(crate) fn is_sentinel(value: f64) -> bool {
    value <= VLLM && [VLLM, DYNAMO, DYNAMO_F32, f64::NEG_INFINITY].contains(&value)
}

/// The value, or NaN for a sentinel.
#[inline(always)]
pub(crate) fn or_nan(value: f64) -> f64 {
    if is_sentinel(value) { f64::NAN } else { value }
}

/// Whether a value may be a sentinel, is NaN or too high. Without branches, so that the compiler vectorises it.
#[inline]
pub(crate) fn any_doubt(values: &[f64]) -> bool {
    values.iter().fold(false, |doubt, &value| {
        doubt | (value <= VLLM) | !is_possible(value)
    })
}

/// Whether p may be that high. NaN is not possible.
#[inline(always)]
fn is_possible(value: f64) -> bool {
    value <= MAX_LOGPROB
}

/// Whether a value is so far above 0 that rounding does not explain it. NaN is not.
#[inline(always)]
pub(crate) fn is_too_high(value: f64) -> bool {
    value > MAX_LOGPROB
}

/// The position of the first value that is too high.
#[inline]
pub(crate) fn first_too_high(values: &[f64]) -> Option<usize> {
    // A word per value, so that no branch and no bit is in the way.
    let any = values
        .iter()
        .fold(0, |any, &value| any | u64::from(is_too_high(value)));
    if any == 0 {
        return None;
    }
    values.iter().position(|&value| is_too_high(value))
}

/// The error of a token without a logprob.
#[cold]
pub(crate) fn no_logprob(value: f64, path: String, offset: Option<usize>) -> Error {
    let found = if value.is_nan() {
        "null".to_owned()
    } else {
        format!("{value:e}")
    };
    Error::new(
        Class::Missing,
        "no_logprob",
        path,
        offset,
        format!(
            "found {found}, which says that the engine has no logprob here; missing_logprob=\"nan\" accepts it"
        ),
    )
}

/// The error of a value above 0.
#[cold]
pub(crate) fn positive_logprob(value: f64, path: String, offset: Option<usize>) -> Error {
    Error::new(
        Class::Missing,
        "positive_logprob",
        path,
        offset,
        format!(
            "found {value} where a log-probability (at most 0) was expected; vLLM sends logits here under --logprobs-mode \
             raw_logits or processed_logits, start it with raw_logprobs or processed_logprobs"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels() {
        assert_eq!(DYNAMO_F32, -1.0000000150474662e30);
        for value in [-9999.0, -1e30, -1.0000000150474662e30, f64::NEG_INFINITY] {
            assert!(is_sentinel(value));
        }
        for value in [0.0, -9998.9, -9999.1, -1e29, f64::NAN, 9999.0] {
            assert!(!is_sentinel(value));
        }
        for value in [-9999.0, -1e30, f64::NAN] {
            assert!(any_doubt(&[0.0, value]));
        }
        assert!(!any_doubt(&[0.0, -0.0, -9998.0, MAX_LOGPROB]));
    }

    #[test]
    fn too_high() {
        for value in [3.5, MAX_LOGPROB.next_up(), f64::MAX] {
            assert!(is_too_high(value));
            assert!(any_doubt(&[-1.0, value]));
            assert_eq!(first_too_high(&[f64::NAN, 0.0, value, value]), Some(2));
        }
        assert_eq!(first_too_high(&[f64::NAN, 0.0, MAX_LOGPROB, -1e30]), None);
    }
}
