//! "No logprob", in every spelling.

use crate::error::{Class, Error};

/// vLLM writes -9999.0 for a token it has no entry for (and for -inf).
const VLLM: f64 = -9999.0;
/// Dynamo writes -1e30 for what is not finite.
const DYNAMO: f64 = -1e30;
/// The same through an f32.
const DYNAMO_F32: f64 = -1e30f32 as f64;

/// Whether a written value means "no logprob".
#[inline(always)]
pub(super) fn is_sentinel(value: f64) -> bool {
    value <= VLLM && (value == VLLM || value == DYNAMO || value == DYNAMO_F32)
}

/// Whether a value may be a sentinel or NaN. Has no branches, so that it costs next to nothing.
#[inline]
pub(super) fn any_doubt(values: &[f64]) -> bool {
    values.iter().fold(false, |doubt, &value| {
        doubt | (value <= VLLM) | value.is_nan()
    })
}

/// The error of a token without a logprob.
#[cold]
pub(super) fn no_logprob(value: f64, path: String, offset: Option<usize>) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels() {
        assert_eq!(DYNAMO_F32, -1.0000000150474662e30);
        for value in [-9999.0, -1e30, -1.0000000150474662e30] {
            assert!(is_sentinel(value));
        }
        for value in [
            0.0,
            -9998.9,
            -9999.1,
            -1e29,
            f64::NAN,
            f64::NEG_INFINITY,
            9999.0,
        ] {
            assert!(!is_sentinel(value));
        }
        for value in [-9999.0, -1e30, f64::NAN] {
            assert!(any_doubt(&[0.0, value]));
        }
        assert!(!any_doubt(&[0.0, -9998.0, 3.5]));
    }
}
