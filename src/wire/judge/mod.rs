//! Checks that every wire shares: what was read is compared with the sampled token ids, the prompt and the options.

mod compact;
pub(crate) mod counts;
pub(crate) mod echo;
pub(crate) mod engine;
pub(crate) mod experts;
pub(crate) mod finish;
pub(crate) mod flat_top;
pub(crate) mod locate;
pub(crate) mod logprobs;
pub(crate) mod mask;
pub(crate) mod matrix;
pub(crate) mod metadata;
pub(crate) mod prompt;
pub(crate) mod prompt_logprobs;
pub(crate) mod sampled;
pub(crate) mod weight_spans;
