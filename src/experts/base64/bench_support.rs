//! The kernels by name, for benchmarks and fuzz targets, which see only what is public.
#![allow(unsafe_code)] // the length of a vector that was just filled, and initialised memory lent as if it were not

use std::mem::MaybeUninit;

use super::{Element, Kernel};

/// A kernel that this machine can run.
#[derive(Debug, Clone, Copy)]
pub struct NamedKernel(Kernel);

/// Every kernel that this machine can run, fastest first.
pub fn kernels() -> Vec<NamedKernel> {
    Kernel::available().map(NamedKernel).collect()
}

/// How many bytes a canonical text decodes to, where everything in front of its padding is letters.
pub fn decoded_len(text: &[u8]) -> Option<usize> {
    super::decoded_len(text).ok()
}

/// A kernel writes values only, so what is initialised stays so.
fn lent<T: Copy>(out: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: the same memory and layout; a kernel writes no uninitialised items into it.
    unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) }
}

impl NamedKernel {
    /// The name that `DYNAMO_TITO_KERNEL` knows.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The same kernel, streaming outputs of `bytes` bytes and more.
    pub fn streaming_from(self, bytes: usize) -> Self {
        Self(self.0.streaming_from(bytes))
    }

    /// Letters at the front of the text.
    pub fn alphabet_len(&self, text: &[u8]) -> usize {
        self.0.alphabet_len(text)
    }

    /// Replaces `out` by `len` bytes of the decoded stream from `skip` on.
    pub fn decode(
        &self,
        text: &[u8],
        skip: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), usize> {
        out.clear();
        out.reserve(len);
        self.0
            .decode_into(text, skip, &mut out.spare_capacity_mut()[..len])?;
        // SAFETY: `decode_into` initialised `len` bytes.
        unsafe { out.set_len(len) };
        Ok(())
    }

    /// Replaces `out` by `len` elements, named as on the wire, from byte `skip` of the decoded stream on; whether any is
    /// negative.
    pub fn widen(
        &self,
        text: &[u8],
        dtype: &str,
        skip: usize,
        len: usize,
        out: &mut Vec<i32>,
    ) -> Result<bool, usize> {
        let element = Element::from_name(dtype).expect("a dtype of the wire");
        out.clear();
        out.reserve(len);
        let out_of_text = &mut out.spare_capacity_mut()[..len];
        let negative = self.0.widen_into(text, element, skip, out_of_text)?;
        // SAFETY: `widen_into` initialised `len` elements.
        unsafe { out.set_len(len) };
        Ok(negative)
    }

    /// Writes bytes of the decoded stream over `out`.
    pub fn decode_over(&self, text: &[u8], skip: usize, out: &mut [u8]) -> Result<(), usize> {
        self.0.decode_into(text, skip, lent(out))
    }

    /// Writes elements, named as on the wire, over `out`; whether any is negative.
    pub fn widen_over(
        &self,
        text: &[u8],
        dtype: &str,
        skip: usize,
        out: &mut [i32],
    ) -> Result<bool, usize> {
        let element = Element::from_name(dtype).expect("a dtype of the wire");
        self.0.widen_into(text, element, skip, lent(out))
    }
}
