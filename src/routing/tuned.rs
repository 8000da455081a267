//! The scan, compiled twice: for every processor, and for x86-64 with vectors of 32 bytes.
#![allow(unsafe_code)] // calling what was compiled for a processor that has been asked

use super::{Expected, ExpertId, Facts, scan_rows};

/// Looks at rows [rows, layers, top_k] once, in the version that suits this processor.
///
/// # Panics
///
/// If the rows are not a whole number of `layers * top_k`, or the earlier ones are not as many.
pub(crate) fn scan<T: ExpertId>(
    ids: &[T],
    layers: usize,
    top_k: usize,
    expected: Expected<'_, T>,
) -> Facts {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked for it.
        return unsafe { with_wide_vectors(ids, layers, top_k, expected) };
    }
    scan_rows(ids, layers, top_k, expected)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
fn with_wide_vectors<T: ExpertId>(
    ids: &[T],
    layers: usize,
    top_k: usize,
    expected: Expected<'_, T>,
) -> Facts {
    scan_rows(ids, layers, top_k, expected)
}
