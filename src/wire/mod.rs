//! The wires: the only place that knows field names.

mod answer;
mod counts;
mod decoded;
mod details;
mod document;
mod entries;
mod evidence;
mod field;
mod finish;
mod list;
mod locate;
mod logprobs;
pub(crate) mod options;
mod prompt;
mod prompt_logprobs;
mod resolve;
mod scan;
mod top;
mod walk;

pub(crate) use decoded::{Decoded, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
pub(crate) use resolve::decode;
