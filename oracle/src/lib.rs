//! A slow, obvious decoder, and what holds the fast one against it: for tests and fuzzing.

pub mod agreement;
#[cfg(test)]
mod cases;
pub mod reference;
