//! A slow and simple decoder, and its comparison with the fast one, for tests and fuzzing.

pub mod agreement;
#[cfg(test)]
mod cases;
pub mod reference;
