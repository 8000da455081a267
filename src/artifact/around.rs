//! Writes a large result around the cache, some rows at a time.
#![allow(unsafe_code)] // stores that the language does not know

use std::mem::MaybeUninit;

use crate::base64::streaming_from;
use crate::memory::Plain;

/// A line of the cache, in bytes.
const LINE: usize = 64;

/// What is written at a time stays in the first level of the cache.
const BYTES: usize = 3 << 10;

/// A result that is written from its beginning on: in place, or, if it is large, in a place in the cache, from where it
/// goes to memory in whole lines.
pub(super) struct Around<'o, T> {
    out: std::slice::ChunksMut<'o, MaybeUninit<T>>,
    place: Vec<MaybeUninit<T>>,
    rows: usize,
}

impl<'o, T: Plain> Around<'o, T> {
    /// Of rows of so many items.
    pub(super) fn new(out: &'o mut [MaybeUninit<T>], row: usize) -> Self {
        let bytes = (row * size_of::<T>()).max(1);
        // So many rows end where a line does, however long a row is.
        let lines = LINE >> bytes.trailing_zeros().min(LINE.trailing_zeros());
        let rows = (BYTES / bytes).next_multiple_of(lines).max(lines);
        let around =
            size_of_val(out) >= streaming_from() && out.as_ptr().cast::<Vector>().is_aligned();
        let items = rows * row;
        Self {
            out: out.chunks_mut(items.max(1)),
            place: vec![MaybeUninit::uninit(); if around { items } else { 0 }],
            rows,
        }
    }

    /// How many rows are written at a time; fewer at the end.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Lets `fill` write the next rows.
    #[inline(always)]
    pub(super) fn next(&mut self, fill: impl FnOnce(&mut [MaybeUninit<T>])) {
        let Some(rows) = self.out.next() else { return };
        if rows.len() == self.place.len() {
            fill(&mut self.place);
            copy(&self.place, rows);
        } else {
            fill(rows);
        }
    }
}

impl<T> Drop for Around<'_, T> {
    /// Orders what was written around the cache before what follows.
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: every processor of this kind has SSE.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
}

/// Asks for bytes that are read soon. A layer lies in one piece, but of many layers a little is read in turn.
#[inline(always)]
pub(super) fn prefetch(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in bytes.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every processor of this kind has SSE, and a prefetch reads nothing that the program sees.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bytes;
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::__m128i as Vector;
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use u128 as Vector;

/// Copies whole lines to an aligned place.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn copy<T: Plain>(from: &[MaybeUninit<T>], to: &mut [MaybeUninit<T>]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    let bytes = size_of_val(from);
    assert!(bytes == size_of_val(to) && bytes.is_multiple_of(LINE));
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
