//! Buffers filled by a kernel.
#![allow(unsafe_code)] // lengths of buffers that a kernel has filled

use std::mem::MaybeUninit;

use crate::base64::{Element, decode_into, widen_into};
use crate::error::{Error, Result};
use crate::memory::{Buffer, Plain};

/// Decodes `count` elements from byte `skip` on and widens them; says whether any is negative.
pub(super) fn widened(
    text: &[u8],
    dtype: Element,
    skip: usize,
    count: usize,
    failed: impl FnOnce(usize) -> Error,
) -> Result<(Buffer<i32>, bool)> {
    let mut values = Buffer::with_capacity(count)?;
    let out = &mut values.spare_capacity_mut()[..count];
    let negative = widen_into(text, dtype, skip, out).map_err(failed)?;
    // SAFETY: `count` items fit, and on success `widen_into` has written all of `out`.
    unsafe { values.set_len(count) };
    Ok((values, negative))
}

/// Decodes `count` elements of the width of `T` from byte `skip` on.
pub(super) fn raw<T: Plain>(
    text: &[u8],
    skip: usize,
    count: usize,
    failed: impl FnOnce(usize) -> Error,
) -> Result<Buffer<T>> {
    const { assert!(cfg!(target_endian = "little"), "the wire is little-endian") };
    let mut values = Buffer::<T>::with_capacity(count)?;
    let out = &mut values.spare_capacity_mut()[..count];
    // SAFETY: the same memory as bytes, which may be uninitialised as such; the borrow of `values` stays.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(out))
    };
    decode_into(text, skip, bytes).map_err(failed)?;
    // SAFETY: `count` items fit, `decode_into` has written all of their bytes, and every bit pattern is a value.
    unsafe { values.set_len(count) };
    Ok(values)
}
