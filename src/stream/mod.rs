//! Streamed answers: chunks of an answer in server-sent events, judged as they come.
//!
//! [`framing`] finds the data of each event. A [`chunk`] is read with the readers of its wire; its values are [judged](judge)
//! with it and appended to the columns of its [`choice`]. A chunk that differs from the one before it in
//! a few values is read faster ([`usual`]). [`end`] judges the joined columns. `docs/judgement.md` has the
//! order.

mod choice;
mod chunk;
mod columns;
mod decoder;
mod delta;
mod dynamo;
mod end;
mod framing;
mod judge;
mod sglang;
mod usual;

pub use decoder::StreamDecoder;
pub use delta::{StreamDelta, StreamTop};
