//! The wires: the only place that knows field names.
//!
//! One file for each server ([`vllm`], [`dynamo`], [`sglang`]) names the keys that it writes and ranks the channels that
//! may fill a role of the [`answer`](answer::Answer). [`read`] turns the bytes of a value into columns, [`judge`] compares
//! the columns with each other, and [`decode`] calls both in the order of `docs/judgement.md`.

mod answer;
mod artifact;
mod decode;
mod decoded;
mod dynamo;
mod judge;
mod read;
mod sentinel;
mod sglang;
mod upload;
mod vllm;

pub(crate) use artifact::decode_artifact;
pub(crate) use decode::decode;
pub use decoded::{Decoded, Finish, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
