//! Decodes the token-in/token-out responses of NVIDIA Dynamo, vLLM and SGLang into flat arrays.
//!
//! `docs/judgement.md` says how a body is judged.
//!
//! ```
//! use dynamo_tito::{Options, Wire, decode};
//!
//! let body = br#"{"choices":[{"token_ids":[7,8],"logprobs":{"content":[
//!     {"token":"token_id:7","logprob":-0.5},{"token":"token_id:8","logprob":-1.25}]}}]}"#;
//! let completion = decode(body, &Options::new(Wire::VllmGenerate))?;
//! assert_eq!(completion.token_ids.as_slice(), [7, 8]);
//! # Ok::<(), dynamo_tito::Error>(())
//! ```

mod artifact;
pub mod base64;
mod decode;
mod divergence;
mod error;
mod experts;
pub mod http;
mod json;
pub mod limits;
pub mod memory;
mod options;
mod priority;
#[cfg(feature = "python")]
mod python;
mod request;
mod routing;
mod stream;
mod wire;

pub use decode::{decode, decode_artifact, decode_choices, decode_into};
pub use divergence::{Divergence, Missing, divergence};
pub use error::{Class, Error, Result};
pub use experts::{ExpertIds, Matrix, Routed as RoutedExperts};
pub use json::Value;
pub use limits::Limits;
pub use options::{ExpertsMode, FinalRow, LogprobsDtype, MissingLogprob, Options, Wire};
pub use request::write_ids;
pub use routing::{Expected, ExpertId, Facts, scan as scan_routing};
pub use stream::{StreamDecoder, StreamDelta, StreamTop};
pub use wire::{
    Attribute, Decoded as Completion, Finish, Floats, Prompt, PromptLogprobs, SamplingMask,
    StopReason, TopLogprobs,
};
