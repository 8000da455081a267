//! Base64 rows to integers: decoded and widened in one pass, from any byte of the decoded stream on.
//!
//! The text is standard base64, canonical: `alphabet_len` and `decoded_len` judge the whole of it, skipped rows too,
//! without decoding; `decode_into` and `widen_into` read only the groups of four letters that hold what is asked for.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod run;
mod scalar;
mod table;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use cache::streaming_from;
pub use kernel::{Kernel, kernel_error, kernel_name};
pub use table::Element;

use std::mem::MaybeUninit;

/// Which rule of canonical base64 a text breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The length is a multiple of four.
    Length,
    /// At most two `=`, at the end.
    Padding,
    /// The bits of the last letter that no byte takes are zero.
    TrailingBits,
}

/// A broken rule, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bad {
    /// The rule.
    pub rule: Rule,
    /// Index into the text: the text's end for its length and its padding, the last letter for trailing bits.
    pub at: usize,
}

/// Index of the first byte that is not one of the 64 letters of the standard alphabet (so: of the closing quote, of
/// padding, or of an error), or the text's length.
pub fn alphabet_len(text: &[u8]) -> usize {
    Kernel::active().alphabet_len(text)
}

/// How many bytes the text decodes to. Looks at the end only: everything in front of the padding must be known to be
/// letters, by `alphabet_len`.
pub fn decoded_len(text: &[u8]) -> Result<usize, Bad> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    if !text.len().is_multiple_of(4) {
        return Err(Bad {
            rule: Rule::Length,
            at: text.len(),
        });
    }
    // Bits of the last letter that do not belong to a byte.
    let unused = match padding {
        0 => return Ok(text.len() / 4 * 3),
        1 => 0b11,
        2 => 0b1111,
        _ => {
            return Err(Bad {
                rule: Rule::Padding,
                at: text.len(),
            });
        }
    };
    let last = text.len() - padding - 1;
    if scalar::value(text[last]) & unused != 0 {
        return Err(Bad {
            rule: Rule::TrailingBits,
            at: last,
        });
    }
    Ok(text.len() / 4 * 3 - padding)
}

/// Decodes the bytes `skip..skip + out.len()` of the decoded stream. On `Ok` all of `out` is initialised. An error is the
/// index of the first bad byte among the groups that were read, padding in the wrong place included; of a text whose
/// length is no multiple of four it is the length.
///
/// # Panics
/// If the text decodes to fewer bytes; `decoded_len` says how many there are.
pub(crate) fn decode_into(
    text: &[u8],
    skip: usize,
    out: &mut [MaybeUninit<u8>],
) -> Result<(), usize> {
    Kernel::active().decode_into(text, skip, out)
}

/// Decodes elements, the first of which begins at byte `skip` of the decoded stream, and widens them: unsigned ones with
/// zeros, signed ones with their sign. On `Ok`, whether any of them is negative. Otherwise as [`decode_into`].
pub(crate) fn widen_into(
    text: &[u8],
    element: Element,
    skip: usize,
    out: &mut [MaybeUninit<i32>],
) -> Result<bool, usize> {
    Kernel::active().widen_into(text, element, skip, out)
}

/// As [`widen_into`], over items that are there already.
pub(crate) fn widen(
    text: &[u8],
    element: Element,
    skip: usize,
    out: &mut [i32],
) -> Result<bool, usize> {
    Kernel::active().widen(text, element, skip, out)
}
