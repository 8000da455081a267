//! Named ceilings. Each is checked before memory is spent on what it bounds.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// Ceilings that a caller may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open brackets at one time, within [`DEPTHS`](Self::DEPTHS).
    pub max_depth: usize,
    /// Elements of one list that has an element per token.
    pub max_tokens: usize,
    /// Rows of one answer's routed experts, dropped ones included.
    pub max_rows: u64,
    /// Bytes of an artifact once decompressed.
    pub max_decompressed: u64,
}

impl Limits {
    /// What `max_depth` may be. Everything that the wires define is shallower than the least of these; what is passed on
    /// as Python objects is built recursively, so there is a largest.
    pub const DEPTHS: RangeInclusive<usize> = 16..=512;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_depth: 128,
            max_tokens: 1 << 24,
            max_rows: 1 << 24,
            max_decompressed: 1 << 30,
        }
    }
}

/// What is said where a ceiling is passed: what was found, the ceiling, and the keyword that moves it.
#[cold]
pub(crate) fn over(found: impl Display, ceiling: impl Display, keyword: &str) -> String {
    format!("{found}, more than {ceiling} (raised with limits=Limits({keyword}=...))")
}

/// The largest value that is still taken for a log-probability; above it p is more than 1.
///
/// log-softmax in float32 as x - logsumexp(x) is off by some 2^-24 of the logits' size: 1e-5 for logits around 100, 6e-4 for
/// the 10^4 that a temperature of 0.01 makes of them. Rejection sampling of speculative tokens rounds in the same place.
/// Recorded bodies hold no value above 0. Logits in place of log-probabilities are above 1 nearly everywhere.
pub const MAX_LOGPROB: f64 = 1e-3;

/// Choices in one response.
pub const MAX_CHOICES: usize = 4096;

/// Bytes of metadata (usage, finish reasons, versions) of one choice that are copied for simd-json.
pub const MAX_METADATA: usize = 1 << 20;

/// Values and keys in that metadata: what is passed on whole costs a Python object each.
pub const MAX_METADATA_VALUES: usize = 1024;

/// Bytes of an npy header. numpy writes 128 for a three-dimensional array.
pub const MAX_NPY_HEADER: usize = 1 << 16;

/// The largest token id.
pub const MAX_TOKEN_ID: u32 = i32::MAX as u32;

/// Bytes of a server's error message that are read, as they stand in the body. An exception keeps far less.
pub const MAX_MESSAGE: usize = 1 << 14;

/// Bytes of a server's error body that an exception keeps.
pub const MAX_ERROR_BODY: usize = 4096;

/// Bytes of a generation artifact's manifest, by the definition of its format.
pub const MAX_ARTIFACT_MANIFEST: usize = 1 << 20;

/// Bytes of a generation artifact's tensors, by the definition of its format.
pub const MAX_ARTIFACT_TENSORS: u64 = 64 << 20;

/// Bytes of a body of plain JSON that are kept where a stream was expected: it may be the server's error.
pub const MAX_PLAIN: usize = 1 << 16;
