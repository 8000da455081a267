//! What fuzz targets reach besides [`crate::agreement`], and no more: they see only what is public.

use crate::request;

pub use crate::experts::bench_support::{NamedKernel, decoded_len, kernels};

/// Appends `1,2,3`. Ids are not negative.
pub fn write_ids(ids: &[i32], out: &mut Vec<u8>) {
    request::write_ids(ids, out);
}
