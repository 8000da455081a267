//! What benchmarks time, and no more: they see only what is public.

use crate::Options;
use crate::error::Result;
use crate::experts::{Target, Values};
use crate::wire;

pub use crate::experts::bench_support::{NamedKernel, kernels};

/// One decoded completion.
#[derive(Debug)]
pub struct Completion(wire::Decoded);

/// Decodes a body with one choice, into memory of its own.
///
/// # Errors
/// Whatever the library refuses.
pub fn decode(body: &[u8], options: &Options<'_>) -> Result<Completion> {
    let mut choices = wire::decode(body, options, false, Target::Own)?;
    Ok(Completion(choices.pop().expect("one choice")))
}

impl Completion {
    /// Token ids.
    #[must_use]
    pub fn token_ids(&self) -> &[i32] {
        self.0.token_ids.as_slice()
    }

    /// Log-probabilities; empty where there are none.
    #[must_use]
    pub fn logprobs(&self) -> &[f64] {
        self.0
            .logprobs
            .as_ref()
            .map_or(&[], |values| values.as_slice())
    }

    /// Routed experts in C order; empty where there are none, or not as int32.
    #[must_use]
    pub fn experts(&self) -> &[i32] {
        match self.0.routed_experts.as_ref().map(|routed| &routed.values) {
            Some(Values::I32(values)) => values.as_slice(),
            _ => &[],
        }
    }
}
