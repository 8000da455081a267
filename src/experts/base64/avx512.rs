//! AVX-512 with VBMI: one byte permutation looks up 64 letters, one more puts the bytes where the integers want them.
#![allow(unsafe_code)] // vector loads and stores, and calls that need the instruction set

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::kernel::{Done, Table};
use super::portable::{self, VALUES};
use super::run::Stores;

/// The kernel, if this machine has the instructions.
pub(super) fn table() -> Option<Table> {
    let here = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi");
    here.then_some(Table {
        name: "avx512vbmi",
        // SAFETY: the instructions were found above, here and below; nobody else makes this kernel.
        alphabet_len: |text| unsafe { alphabet_len(text) },
        bytes: |text, out, stores| match stores {
            // SAFETY: as above.
            Stores::Cached => unsafe { bytes::<false>(text, out) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { bytes::<true>(text, out) },
        },
        u8_to_i32: |text, out, stores| match stores {
            // SAFETY: as above.
            Stores::Cached => unsafe { Done::unsigned(u8_to_i32::<false>(text, out)) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { Done::unsigned(u8_to_i32::<true>(text, out)) },
        },
        u16_to_i32: |text, out, stores| match stores {
            // SAFETY: as above.
            Stores::Cached => unsafe { i16_to_i32::<false, false>(text, out) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { i16_to_i32::<false, true>(text, out) },
        },
        i16_to_i32: |text, out, stores| match stores {
            // SAFETY: as above.
            Stores::Cached => unsafe { i16_to_i32::<true, false>(text, out) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { i16_to_i32::<true, true>(text, out) },
        },
        i32_to_i32: |text, out, stores| match stores {
            // SAFETY: as above.
            Stores::Cached => unsafe { i32_to_i32::<false>(text, out) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { i32_to_i32::<true>(text, out) },
        },
    })
}

/// Letters between two looks at whether all of them were letters.
const CHECKED: usize = 2048;

/// How far ahead of the letters in hand the text is asked for. The processor's own prefetcher stops at the end of a page;
/// with this, a text that lies in memory is read a quarter faster.
const AHEAD: usize = 2048;

type Line<T, const N: usize> = [MaybeUninit<T>; N];

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
        if _mm512_movepi8_mask(bad) != 0 {
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

/// Asks for the text that comes [`AHEAD`] bytes after the block.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(block: &[u8]) {
    for line in block.chunks(64) {
        #[allow(unused_unsafe)] // unsafe in older compilers
        // SAFETY: a hint: it reads nothing, whatever the address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast())
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &[u8; 64]) -> __m512i {
    // SAFETY: the reference is good for 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load3(lines: &[[u8; 64]; 3]) -> [__m512i; 3] {
    [load(&lines[0]), load(&lines[1]), load(&lines[2])]
}

/// One line of the output; [`blocks`] sees to the alignment that streaming needs.
#[inline]
#[target_feature(enable = "avx512f")]
fn store<const STREAM: bool, T, const N: usize>(line: &mut Line<T, N>, value: __m512i) {
    const { assert!(size_of::<Line<T, N>>() == 64) };
    let line = line.as_mut_ptr().cast();
    if STREAM {
        // SAFETY: 64 writable bytes, a whole number of lines from an output that `blocks` found to start at one.
        unsafe { _mm512_stream_si512(line, value) }
    } else {
        // SAFETY: 64 writable bytes, and the store asks for no alignment.
        unsafe { _mm512_storeu_si512(line, value) }
    }
}

/// Whether a word of four bytes has its sign bit set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn negative(signs: __m512i) -> bool {
    _mm512_cmplt_epi32_mask(signs, _mm512_setzero_si512()) != 0
}

/// Runs `block` over whole blocks for as long as every letter is one, and says how many items that made.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn blocks<T, const STREAM: bool, const LETTERS: usize, const ITEMS: usize>(
    text: &[u8],
    out: &mut [MaybeUninit<T>],
    mut block: impl FnMut(&[u8; LETTERS], &mut Line<T, ITEMS>, &mut __m512i),
) -> usize {
    const { assert!((ITEMS * size_of::<T>()).is_multiple_of(64) && CHECKED.is_multiple_of(LETTERS)) };
    assert!(!STREAM || out.as_ptr().addr().is_multiple_of(64));
    let mut done = 0;
    for (text, out) in text
        .chunks(CHECKED)
        .zip(out.chunks_mut(CHECKED / LETTERS * ITEMS))
    {
        let (text, out) = (text.as_chunks().0, out.as_chunks_mut().0);
        let mut bad = _mm512_setzero_si512();
        for (text, out) in text.iter().zip(&mut *out) {
            prefetch(text);
            block(text, out, &mut bad);
        }
        if _mm512_movepi8_mask(bad) != 0 {
            break;
        }
        done += text.len().min(out.len()) * ITEMS;
    }
    if STREAM {
        // Before anything tells another thread that the output is there.
        _mm_sfence();
    }
    done
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
fn u8_to_i32<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<i32>]) -> usize {
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
    blocks::<i32, STREAM, 64, 48>(text, out, |text, out, bad| {
        let groups = letters.groups(text, bad);
        for (line, spread) in out.as_chunks_mut::<16>().0.iter_mut().zip(spread) {
            store::<STREAM, _, _>(
                line,
                _mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, spread, groups),
            );
        }
    })
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

/// An item is its four bytes, little-endian as this machine is.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn i32_to_i32<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<i32>]) -> Done {
    // SAFETY: the same memory as bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size_of_val(out)) };
    let done = bytes::<STREAM>(text, out);
    Done {
        items: done.items / 4,
        ..done
    }
}
