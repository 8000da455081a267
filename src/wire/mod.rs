//! The wires: the only place that knows field names.

mod answer;
mod counts;
mod decoded;
mod details;
mod document;
mod echo;
mod entries;
mod evidence;
mod field;
mod finish;
mod list;
mod locate;
mod logprobs;
mod mask;
mod prompt;
mod prompt_logprobs;
mod resolve;
mod scan;
mod spans;
mod top;
mod walk;

pub use decoded::{Decoded, Finish, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
pub(crate) use resolve::decode;
