//! Buffers filled by a kernel.
#![allow(unsafe_code)] // lengths of buffers that a kernel has filled

use std::mem::MaybeUninit;

use super::blob::{Text, refused};
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

/// `count` int32 from byte `skip` on.
pub(crate) fn integers(text: &Text<'_>, skip: usize, count: usize) -> Result<Buffer<i32>> {
    raw(&text.text, skip, count, |at| bad(text, at))
}

/// `count` floats from byte `skip` on, of 64 bits if `wide`, else of 32 bits and widened where they lie.
pub(crate) fn doubles(
    text: &Text<'_>,
    wide: bool,
    skip: usize,
    count: usize,
) -> Result<Buffer<f64>> {
    if wide {
        return raw(&text.text, skip, count, |at| bad(text, at));
    }
    let mut values = Buffer::<f64>::with_capacity(count)?;
    let out = &mut values.spare_capacity_mut()[..count];
    let start = out.as_mut_ptr();
    // SAFETY: the upper half of `out` has room for as many items of half the size.
    let narrow = unsafe { start.cast::<f32>().add(count) };
    // SAFETY: the same memory as bytes; nothing else refers to it while the slice is in use.
    let upper =
        unsafe { std::slice::from_raw_parts_mut(narrow.cast::<MaybeUninit<u8>>(), 4 * count) };
    decode_into(&text.text, skip, upper).map_err(|at| bad(text, at))?;
    for i in 0..count {
        // SAFETY: item i of the upper half was written by `decode_into`. It lies at byte 4 * count + 4 * i, behind the
        // 8 * i bytes that this loop has written, so that it is still there. Both addresses are aligned.
        unsafe {
            start
                .add(i)
                .cast::<f64>()
                .write(f64::from(narrow.add(i).read()))
        };
    }
    // SAFETY: `count` items fit, and the loop has written all of them.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Elements from byte `skip` on, as many as there is room for.
pub(crate) fn piece<T: Plain>(text: &Text<'_>, skip: usize, out: &mut [T]) -> Result<()> {
    const { assert!(cfg!(target_endian = "little"), "the wire is little-endian") };
    let (start, bytes) = (out.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(out));
    // SAFETY: the same memory as bytes; only bytes are written, and every bit pattern is a value.
    let out = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
    decode_into(&text.text, skip, out).map_err(|at| bad(text, at))
}

fn bad(text: &Text<'_>, at: usize) -> Error {
    refused("base64", text.place(at), "not base64")
}
