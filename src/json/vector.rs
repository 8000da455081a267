//! Sixteen bytes at a time: the end of a string.
#![allow(unsafe_code)] // SSE2 loads; part of every x86-64, so there is nothing to detect

/// The index of the first `"`, `\` or control character (or `bytes.len()`), and whether a byte of 0x80 or more may come before it.
#[inline(always)]
pub(crate) fn find_special(bytes: &[u8]) -> (usize, bool) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        find_special_sse2(bytes)
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        find_special_swar(bytes)
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn find_special_sse2(bytes: &[u8]) -> (usize, bool) {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8,
    };
    let mut high = 0u32;
    let mut chunks = bytes.chunks_exact(16);
    let mut at = 0;
    for chunk in &mut chunks {
        // SAFETY: `chunk` is 16 readable bytes, the load needs no alignment, and SSE2 is part of x86-64.
        let (special, above) = unsafe {
            let v = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'"' as i8));
            let slash = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
            let any = _mm_or_si128(_mm_or_si128(quote, slash), control);
            (_mm_movemask_epi8(any) as u32, _mm_movemask_epi8(v) as u32)
        };
        if special != 0 {
            let found = special.trailing_zeros();
            high |= above & ((1 << found) - 1);
            return (at + found as usize, high != 0);
        }
        high |= above;
        at += 16;
    }
    let (found, tail_high) = find_special_bytes(chunks.remainder());
    (at + found, tail_high || high != 0)
}

/// Eight bytes at a time, for other machines.
#[cfg(any(test, not(all(target_arch = "x86_64", not(miri)))))]
fn find_special_swar(bytes: &[u8]) -> (usize, bool) {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let mut high = 0;
    let mut at = 0;
    let mut rest = bytes;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let v = u64::from_le_bytes(*chunk);
        let zero_at = |x: u64| x.wrapping_sub(ONES) & !x & HIGHS;
        let special = zero_at(v ^ (ONES * u64::from(b'"')))
            | zero_at(v ^ (ONES * u64::from(b'\\')))
            | (v.wrapping_sub(ONES * 0x20) & !v & HIGHS);
        if special != 0 {
            break;
        }
        high |= v & HIGHS;
        at += 8;
        rest = after;
    }
    let (found, tail_high) = find_special_bytes(rest);
    (at + found, tail_high || high != 0)
}

fn find_special_bytes(bytes: &[u8]) -> (usize, bool) {
    let mut high = false;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            return (i, high);
        }
        high |= byte >= 0x80;
    }
    (bytes.len(), high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for len in 0..50 {
            for place in 0..len {
                for byte in 0..=255u8 {
                    let mut text = vec![b'x'; len];
                    text[place] = byte;
                    let expected = find_special_bytes(&text);
                    assert_eq!(
                        find_special(&text),
                        expected,
                        "{byte:#x} at {place} of {len}"
                    );
                    assert_eq!(
                        find_special_swar(&text),
                        expected,
                        "{byte:#x} at {place} of {len}"
                    );
                }
            }
        }
    }
}
