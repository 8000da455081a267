//! Compressed objects of tensors, which a server uploads or puts into an answer.
//!
//! Dynamo's `generation_artifact_v1` is a prelude ([`open`](open())), a canonical MessagePack manifest and tensors; all
//! that a trainer asks of a completion may be in it. SGLang's worker uploads its `meta_info` as MessagePack; [`upload`]
//! writes it as the JSON that its other answers are. `docs/judgement.md` lists the checks.

mod around;
mod columns;
mod manifest;
mod msgpack;
mod open;
mod routes;
mod rows;
mod upload;
mod zstd;

pub(crate) use columns::{Artifact, Column, Top};
pub(crate) use open::open;
pub(crate) use routes::Routes;
pub(crate) use upload::{is_upload, transcribe};
