//! The wires: the only place that knows field names.

mod answer;
mod decode;
mod decoded;
mod dynamo;
mod judge;
pub(crate) mod options;
mod read;
mod sentinel;
mod sglang;
mod vllm;

pub(crate) use decode::decode;
pub(crate) use decoded::{Decoded, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
