//! The wires: the only place that knows field names.
//!
//! One file for each server ([`vllm`], [`dynamo`], [`sglang`]) names the keys that it writes and ranks the channels that
//! may fill a role of the [`answer`](answer::Answer). [`read`] turns the bytes of a value into columns, [`judge`] compares
//! the columns with each other, and [`decode`] calls both in the order of `docs/judgement.md`.

pub(crate) mod answer;
mod decode;
mod decoded;
mod dynamo;
pub(crate) mod judge;
pub(crate) mod read;
pub(crate) mod sentinel;
mod sglang;
mod vllm;

pub(crate) use decode::{chunk, decode};
pub use decoded::{Decoded, Finish, Prompt, PromptLogprobs, SamplingMask, StopReason, TopLogprobs};
