//! Routed experts: which experts every token went to, in every layer, as base64 of integers.
//!
//! Three containers are in use (an object with its shape beside it, an npy file, bare int32 rows); [`Container`] finds out which one
//! is there, [`decode_rows`] holds it against the contract's rules 9 to 12 and decodes the wanted rows, straight to their final width.

mod blob;
mod container;
mod fill;
mod matrix;
mod npy;
mod rows;
mod trim;

pub(crate) use blob::{Blob, Text};
pub(crate) use container::Container;
pub(crate) use fill::{doubles, integers, piece};
pub use matrix::Matrix;
pub(crate) use matrix::matrix;
pub(crate) use rows::{Capture, Target, check_expected, check_rows, decode_rows, room};
pub use rows::{ExpertIds, Routed};
pub(crate) use trim::{Sequence, trim};
