//! What the fuzz targets judge, and how their inputs are changed.

pub mod artifacts;
pub mod cases;
pub mod containers;
pub mod kernels;
pub mod packed;
pub mod requests;
pub mod streams;
