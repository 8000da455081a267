//! Writes a large result block by block with stores that bypass the cache.
#![allow(unsafe_code)] // stores that the language does not know

use std::mem::MaybeUninit;

use crate::base64::streaming_from;
use crate::memory::Plain;

/// Rows that are written at a time: whole lines of the cache, however long a row is and however wide an item.
pub(super) const ROWS: usize = 64;

/// Lets `fill` write rows of `row` items, some at a time: to `out`, or, of a large result, to a place in the cache, from
/// where they go to `out`. `fill` gets the number of the first row.
pub(super) fn by_rows<T: Plain>(
    out: &mut [MaybeUninit<T>],
    row: usize,
    mut fill: impl FnMut(usize, &mut [MaybeUninit<T>]),
) {
    let around = size_of_val(out) >= streaming_from() && out.as_ptr().cast::<Vector>().is_aligned();
    let mut place = vec![MaybeUninit::uninit(); if around { ROWS * row } else { 0 }];
    for (i, block) in out.chunks_mut(ROWS * row).enumerate() {
        if around && block.len() == place.len() {
            fill(ROWS * i, &mut place);
            copy(&place, block);
        } else {
            fill(ROWS * i, block);
        }
    }
    fence();
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::__m128i as Vector;
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use u128 as Vector;

/// Copies whole lines to an aligned place.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn copy<T: Plain>(from: &[MaybeUninit<T>], to: &mut [MaybeUninit<T>]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    let bytes = size_of_val(from);
    assert!(bytes == size_of_val(to) && bytes.is_multiple_of(ROWS));
    let (from, to) = (from.as_ptr().cast::<u8>(), to.as_mut_ptr().cast::<u8>());
    for at in (0..bytes).step_by(size_of::<Vector>()) {
        // SAFETY: both have `bytes` bytes, the vectors of `to` are aligned, and every processor of this kind has SSE2.
        unsafe { _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast())) };
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn copy<T: Plain>(from: &[MaybeUninit<T>], to: &mut [MaybeUninit<T>]) {
    to.copy_from_slice(from);
}

/// Orders the stores that bypass the cache before what follows.
fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every processor of this kind has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
