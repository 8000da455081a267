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

/// The length of the string that `window` begins with, if it ends there and is plain ASCII without escapes.
#[inline(always)]
pub(crate) fn plain_len(window: &[u8; 16]) -> Option<usize> {
    let (found, high) = find_special(window);
    (!high && window.get(found) == Some(&b'"')).then_some(found)
}

/// What a window begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integers {
    /// Integers with commas between them, of this many bytes, and then a closing bracket.
    End(usize),
    /// Integers with a comma behind each, of this many bytes (1 or more).
    More(usize),
    /// Anything else, which may well be JSON.
    Other,
}

/// Looks for integers without a sign and without white space; a window in a list begins where one may begin.
#[inline(always)]
pub(crate) fn integers(window: &[u8; 16]) -> Integers {
    let Classes {
        digits,
        zeros,
        commas,
    } = Classes::of(window);
    let len = (!(digits | commas)).trailing_zeros();
    let inside = (1 << len) - 1;
    let commas = commas & inside;
    let begins = commas << 1 | 1;
    // No digit where an integer must begin, or a zero there and a digit behind it.
    let bad = begins & (!digits | zeros & digits >> 1);
    if window.get(len as usize) == Some(&b']') {
        return match bad {
            0 => Integers::End(len as usize),
            _ => Integers::Other,
        };
    }
    // What is behind the last comma may go on as anything.
    let whole = 32 - commas.leading_zeros();
    if whole > 0 && bad & ((1 << whole) - 1) == 0 {
        return Integers::More(whole as usize);
    }
    Integers::Other
}

/// Bytes of a window: a bit for each, the first in the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Classes {
    digits: u32,
    zeros: u32,
    commas: u32,
}

impl Classes {
    #[inline(always)]
    fn of(window: &[u8; 16]) -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            Self::of_sse2(window)
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        {
            Self::of_bytes(window)
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn of_sse2(window: &[u8; 16]) -> Self {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8,
            _mm_set1_epi8, _mm_xor_si128,
        };
        // SAFETY: `window` is 16 readable bytes, the load needs no alignment, and SSE2 is part of x86-64.
        unsafe {
            let v = _mm_loadu_si128(window.as_ptr().cast::<__m128i>());
            // The value of a digit; all else is larger.
            let value = _mm_xor_si128(v, _mm_set1_epi8(b'0' as i8));
            let digit = _mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value);
            let mask = |v, byte: u8| {
                _mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(byte as i8))) as u32
            };
            Self {
                digits: _mm_movemask_epi8(digit) as u32,
                zeros: mask(v, b'0'),
                commas: mask(v, b','),
            }
        }
    }

    #[cfg(any(test, not(all(target_arch = "x86_64", not(miri)))))]
    fn of_bytes(window: &[u8; 16]) -> Self {
        let mask = |is: fn(u8) -> bool| {
            let bit = |(place, &byte): (usize, &u8)| u32::from(is(byte)) << place;
            window.iter().enumerate().map(bit).sum()
        };
        Self {
            digits: mask(|byte| byte.is_ascii_digit()),
            zeros: mask(|byte| byte == b'0'),
            commas: mask(|byte| byte == b','),
        }
    }
}

/// Where the bytes of a block are that give a document its structure: a bit for each byte, the first in the lowest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Structure {
    pub(crate) quotes: u64,
    pub(crate) backslashes: u64,
    /// `[` and `{`
    pub(crate) opening: u64,
    /// `]` and `}`
    pub(crate) closing: u64,
    pub(crate) commas: u64,
}

impl Structure {
    /// Looks at a block.
    #[inline(always)]
    pub(crate) fn of(block: &[u8; 64]) -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            Self::of_sse2(block)
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        {
            Self::of_bytes(block)
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn of_sse2(block: &[u8; 64]) -> Self {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128,
            _mm_set1_epi8,
        };
        let mut found = Self::default();
        for (place, chunk) in block.chunks_exact(16).enumerate() {
            // SAFETY: `chunk` is 16 readable bytes, the load needs no alignment, and SSE2 is part of x86-64.
            let masks = unsafe {
                let v = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
                // Brackets and braces differ in one bit.
                let folded = _mm_or_si128(v, _mm_set1_epi8(0x20));
                let mask = |v, byte: u8| {
                    _mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(byte as i8))) as u32
                };
                [
                    mask(v, b'"'),
                    mask(v, b'\\'),
                    mask(folded, b'{'),
                    mask(folded, b'}'),
                    mask(v, b','),
                ]
            };
            let [quotes, backslashes, opening, closing, commas] =
                masks.map(|mask| u64::from(mask) << (16 * place));
            found.quotes |= quotes;
            found.backslashes |= backslashes;
            found.opening |= opening;
            found.closing |= closing;
            found.commas |= commas;
        }
        found
    }

    #[cfg(any(test, not(all(target_arch = "x86_64", not(miri)))))]
    fn of_bytes(block: &[u8; 64]) -> Self {
        let mut found = Self::default();
        for (place, byte) in block.iter().enumerate() {
            let bit = 1 << place;
            match byte {
                b'"' => found.quotes |= bit,
                b'\\' => found.backslashes |= bit,
                b'[' | b'{' => found.opening |= bit,
                b']' | b'}' => found.closing |= bit,
                b',' => found.commas |= bit,
                _ => {}
            }
        }
        found
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
    fn the_structure_of_any_block() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let block = std::array::from_fn(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                let pick = (state >> 33) as usize;
                if pick.is_multiple_of(3) {
                    (pick / 3) as u8
                } else {
                    b"\"\\[]{},:;0\x5a\x7f"[pick / 3 % 12]
                }
            });
            assert_eq!(
                Structure::of(&block),
                Structure::of_bytes(&block),
                "{block:?}"
            );
        }
    }

    #[test]
    fn integers_of_any_window() {
        let read = |text: &str| integers(text.as_bytes().first_chunk().unwrap());
        assert_eq!(read("0]              "), Integers::End(1));
        assert_eq!(read("7,0,10,1234]    "), Integers::End(11));
        assert_eq!(read("123456789012345]"), Integers::End(15));
        assert_eq!(read("1,2,3,4,5,6,7,8,"), Integers::More(16));
        assert_eq!(read("1,2,3,4,5,6,7,88"), Integers::More(14));
        assert_eq!(read("1,0,1.5]        "), Integers::More(4));
        assert_eq!(read("1,02345678901234"), Integers::More(2));
        for other in [
            "]", ",1]", "1,]", "1,,2]", "01]", "1,00]", "-1]", "1 ]", "1.5]",
        ] {
            assert_eq!(read(&format!("{other:16}")), Integers::Other, "{other}");
        }
        assert_eq!(read("1234567890123456"), Integers::Other);
        assert_eq!(read("1,,2,3,4,5,6,7,8"), Integers::Other);
        assert_eq!(read("1,02,3,4,5,6,7,8"), Integers::Other);
    }

    #[test]
    fn the_classes_of_any_window() {
        for place in 0..16 {
            for byte in 0..=255u8 {
                let mut window = *b"0,1,9,/:]25,, 07";
                window[place] = byte;
                assert_eq!(
                    Classes::of(&window),
                    Classes::of_bytes(&window),
                    "{byte:#x} at {place}"
                );
            }
        }
    }

    #[test]
    fn short_plain_strings() {
        let read = |text: &str| plain_len(text.as_bytes().first_chunk().unwrap());
        assert_eq!(read("\"               "), Some(0));
        assert_eq!(read("abc\"            "), Some(3));
        assert_eq!(read("123456789012345\""), Some(15));
        assert_eq!(read("1234567890123456\""), None);
        assert_eq!(read("a\\\"\"            "), None);
        assert_eq!(read("a\u{1}\"             "), None);
        assert_eq!(read("\u{e9}\"             "), None);
    }

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
