//! The wires: the only place that knows field names.
//!
//! One file for each server ([`vllm`], [`dynamo`], [`sglang`]) names the keys that it writes and ranks the channels that
//! may fill a role of the [`answer`](answer::Answer). [`read`] turns the bytes of a value into columns, [`judge`] compares
//! the columns with each other, and [`decode`] calls both in the order of `docs/judgement.md`.

pub(crate) mod answer;
mod artifact;
mod decode;
mod decoded;
mod dynamo;
mod floats;
pub(crate) mod judge;
pub(crate) mod read;
pub(crate) mod sentinel;
mod sglang;
mod upload;
mod vllm;
mod vllm_completions;

use crate::error::Result;
use crate::options::{Options, Wire};
use answer::Answers;

pub(crate) use artifact::decode_artifact;
pub(crate) use decode::{chunk, decode};
#[cfg(feature = "python")]
pub(crate) use decoded::ATTRIBUTES;
pub use decoded::{
    Attribute, Decoded, Finish, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs,
};
pub use floats::Floats;

/// The answers of a body, by the file of its wire: every choice with `several`, else the only one. A `chunk` of a stream
/// may have none.
fn answers(body: &[u8], options: &Options<'_>, several: bool, chunk: bool) -> Result<Answers> {
    match options.wire {
        Wire::DynamoChat | Wire::DynamoCompletions => dynamo::answers(body, options, chunk),
        Wire::VllmGenerate | Wire::VllmChat => vllm::answers(body, options, several, chunk),
        Wire::SglangGenerate if chunk => sglang::chunk(body, options),
        Wire::VllmCompletions => vllm_completions::answers(body, options, several),
        Wire::SglangGenerate => sglang::answers(body, options, several),
        Wire::SglangChat => sglang::chat_answers(body, options, several),
    }
}
