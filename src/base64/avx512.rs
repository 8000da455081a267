//! AVX-512 with VBMI: one byte permutation looks up 64 letters, one more puts the bytes where the integers want them.
#![allow(unsafe_code)] // vector loads and stores, and calls that need the instruction set

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::portable;
use super::scalar::VALUES;
use super::table::{Done, Stores, Table};
use super::x86::{CHECKED, bulk, kernel, prefetch};

kernel! {
    name: "avx512vbmi", instructions: ["avx512f", "avx512bw", "avx512vbmi"], enable: "avx512f,avx512bw,avx512vbmi",
    vector: __m512i, zero: _mm512_setzero_si512, load: _mm512_loadu_si512, store: _mm512_storeu_si512, stream: _mm512_stream_si512
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn alphabet_len(text: &[u8]) -> usize {
    let letters = Letters::new();
    let mut done = 0;
    for block in text.as_chunks::<256>().0 {
        prefetch(block);
        let mut bad = _mm512_setzero_si512();
        for line in block.as_chunks::<64>().0 {
            letters.values(load(line), &mut bad);
        }
        if any(bad) {
            break;
        }
        done += 256;
    }
    done + portable::alphabet_len(&text[done..])
}

/// Index of byte `byte` of the decoded stream in a vector of [`Letters::groups`].
const fn place(byte: usize) -> u8 {
    (byte / 3 * 4 + 2 - byte % 3) as u8
}

/// The alphabet in two registers.
#[derive(Clone, Copy)]
struct Letters {
    low: __m512i,
    high: __m512i,
}

impl Letters {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn new() -> Self {
        let (lines, _) = VALUES.as_chunks::<64>();
        Self {
            low: load(&lines[0]),
            high: load(&lines[1]),
        }
    }

    /// The letters' values, a byte each. Sets the top bit of every byte of `bad` where there is no letter: either the
    /// table says so, or the byte itself is beyond the 128 that the table knows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn values(self, text: __m512i, bad: &mut __m512i) -> __m512i {
        let values = _mm512_permutex2var_epi8(self.low, text, self.high);
        *bad = _mm512_ternarylogic_epi32::<0b1111_1110>(*bad, values, text);
        values
    }

    /// Sixteen groups of 24 bits, the first byte of each on top, see [`place`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn groups(self, text: &[u8; 64], bad: &mut __m512i) -> __m512i {
        let values = self.values(load(text), bad);
        let pairs = _mm512_maddubs_epi16(values, _mm512_set1_epi32(0x0140_0140));
        _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_1000))
    }
}

/// Whether a word of four bytes has its sign bit set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn negative(signs: __m512i) -> bool {
    _mm512_cmplt_epi32_mask(signs, _mm512_setzero_si512()) != 0
}

/// Whether a letter is bad.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn any(bad: __m512i) -> bool {
    _mm512_movepi8_mask(bad) != 0
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn bytes<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<u8>]) -> Done {
    // Four vectors of 48 bytes make three of 64: indices below 64 take from the first of two neighbours.
    const JOIN: [[u8; 64]; 3] = {
        let mut join = [[0; 64]; 3];
        let mut byte = 0;
        while byte < 192 {
            let (line, vector) = (byte / 64, byte / 48);
            join[line][byte % 64] = (64 * (vector - line)) as u8 + place(byte % 48);
            byte += 1;
        }
        join
    };
    let letters = Letters::new();
    let join = load3(&JOIN);
    let mut signs = _mm512_setzero_si512();
    let items = blocks::<u8, STREAM, 256, 192>(text, out, |text, out, bad| {
        let (text, out) = (text.as_chunks::<64>().0, out.as_chunks_mut::<64>().0);
        let mut groups = letters.groups(&text[0], bad);
        for line in 0..3 {
            let next = letters.groups(&text[line + 1], bad);
            let bytes = _mm512_permutex2var_epi8(groups, join[line], next);
            signs = _mm512_or_si512(signs, bytes);
            store::<STREAM, _, _>(&mut out[line], bytes);
            groups = next;
        }
    });
    Done {
        items,
        negative: negative(signs),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn u8_to_i32<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<i32>]) -> Done {
    const SPREAD: [[u8; 64]; 3] = {
        let mut spread = [[0; 64]; 3];
        let mut item = 0;
        while item < 48 {
            spread[item / 16][item % 16 * 4] = place(item);
            item += 1;
        }
        spread
    };
    let letters = Letters::new();
    let spread = load3(&SPREAD);
    let items = blocks::<i32, STREAM, 64, 48>(text, out, |text, out, bad| {
        let groups = letters.groups(text, bad);
        for (line, spread) in out.as_chunks_mut::<16>().0.iter_mut().zip(spread) {
            store::<STREAM, _, _>(
                line,
                _mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, spread, groups),
            );
        }
    });
    Done::unsigned(items)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn i16_to_i32<const SIGNED: bool, const STREAM: bool>(
    text: &[u8],
    out: &mut [MaybeUninit<i32>],
) -> Done {
    // Two vectors of 24 items make three of 16: the first line lies in the first vector, the second in both, the third in
    // the second. Indices below 64 take from the first. A signed item goes to the upper half and is shifted down.
    const SPREAD: [[[u8; 64]; 3]; 2] = {
        let mut spread = [[[0; 64]; 3]; 2];
        let mut half = 0;
        while half < 96 {
            let (item, byte) = (half / 2, half % 2);
            let index = place(half % 48) + if half < 48 || item >= 32 { 0 } else { 64 };
            spread[0][item / 16][item % 16 * 4 + byte] = index;
            spread[1][item / 16][item % 16 * 4 + 2 + byte] = index;
            half += 1;
        }
        spread
    };
    let letters = Letters::new();
    let spread = load3(&SPREAD[SIGNED as usize]);
    let keep = if SIGNED {
        0xcccc_cccc_cccc_cccc
    } else {
        0x3333_3333_3333_3333
    };
    let mut signs = _mm512_setzero_si512();
    let items = blocks::<i32, STREAM, 128, 48>(text, out, |text, out, bad| {
        let text = text.as_chunks::<64>().0;
        let (first, second) = (letters.groups(&text[0], bad), letters.groups(&text[1], bad));
        let items = [
            _mm512_maskz_permutexvar_epi8(keep, spread[0], first),
            _mm512_maskz_permutex2var_epi8(keep, first, spread[1], second),
            _mm512_maskz_permutexvar_epi8(keep, spread[2], second),
        ];
        for (line, items) in out.as_chunks_mut::<16>().0.iter_mut().zip(items) {
            let items = if SIGNED {
                signs = _mm512_or_si512(signs, items);
                _mm512_srai_epi32::<16>(items)
            } else {
                items
            };
            store::<STREAM, _, _>(line, items);
        }
    });
    Done {
        items,
        negative: negative(signs),
    }
}
