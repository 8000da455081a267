//! Decodes the token-in/token-out responses of NVIDIA Dynamo, vLLM and SGLang into flat arrays.
//!
//! `docs/judgement.md` says how a body is judged; `wire` does it.

// The Python face uses all of the core; without it, tests and benchmarks use most.
#![cfg_attr(not(feature = "python"), allow(dead_code, unused_imports))]

#[cfg(any(test, feature = "reference"))]
pub mod agreement;
#[cfg(feature = "reference")]
#[doc(hidden)]
pub mod bench_support;
mod divergence;
mod error;
mod experts;
#[cfg(feature = "reference")]
#[doc(hidden)]
pub mod fuzz_support;
mod json;
mod limits;
mod memory;
#[cfg(feature = "python")]
mod python;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
mod request;
mod routing;
mod wire;

pub use error::{Class, Error, Result};
pub use limits::Limits;
pub use wire::options::{ExpertsMode, FinalRow, MissingLogprob, Options, Wire};
