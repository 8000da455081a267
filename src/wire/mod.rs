//! The wires: the only place that knows field names.

mod answer;
mod decode;
mod decoded;
mod document;
mod judge;
pub(crate) mod options;
mod read;
mod scan;
mod sentinel;

pub(crate) use decode::decode;
pub(crate) use decoded::{Decoded, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
