//! AVX2: nibble lookups judge and translate 32 letters, shuffles put the bytes where the integers want them.
#![allow(unsafe_code)] // vector loads and stores, and calls that need the instruction set

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::portable;
use super::scalar::value;
use super::table::{Done, Stores, Table};
use super::x86::{CHECKED, bulk, kernel, prefetch};

kernel! {
    name: "avx2", instructions: ["avx2"], enable: "avx2",
    vector: __m256i, zero: _mm256_setzero_si256, load: _mm256_loadu_si256, store: _mm256_storeu_si256, stream: _mm256_stream_si256
}

#[target_feature(enable = "avx2")]
fn alphabet_len(text: &[u8]) -> usize {
    let letters = Letters::new();
    let mut done = 0;
    for block in text.as_chunks::<128>().0 {
        prefetch(block);
        let mut bad = _mm256_setzero_si256();
        for line in block.as_chunks::<32>().0 {
            letters.judge(load(line), &mut bad);
        }
        if any(bad) {
            break;
        }
        done += 128;
    }
    done + portable::alphabet_len(&text[done..])
}

/// Tables by nibble, each twice, because a shuffle sees 16 bytes at a time.
#[derive(Clone, Copy)]
struct Letters {
    /// By the upper nibble: which of five sets of bytes this one is in, a bit each.
    rows: __m256i,
    /// By the lower nibble: in which of these sets it is no letter.
    columns: __m256i,
    /// By the upper nibble, less one for `/`: what makes a letter its value.
    shifts: __m256i,
}

impl Letters {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        // The rows of ASCII that hold letters: 2 has `+` and `/`, 3 the digits, 4 and 6 all but their first, 5 and 7 the
        // first eleven. Every other row is in a set of its own that has no letters.
        const ROWS: [u8; 16] = {
            let mut rows = [16; 16];
            rows[2] = 1;
            rows[3] = 2;
            (rows[4], rows[6]) = (4, 4);
            (rows[5], rows[7]) = (8, 8);
            rows
        };
        const COLUMNS: [u8; 16] = {
            let mut columns = [16; 16];
            let mut column = 0;
            while column < 16 {
                let mut row = 2;
                while row < 8 {
                    if value((16 * row + column) as u8) > 63 {
                        columns[column] |= ROWS[row];
                    }
                    row += 1;
                }
                column += 1;
            }
            columns
        };
        const SHIFTS: [u8; 16] = {
            let mut shifts = [0; 16];
            shifts[1] = value(b'/').wrapping_sub(b'/');
            shifts[2] = value(b'+').wrapping_sub(b'+');
            shifts[3] = value(b'0').wrapping_sub(b'0');
            let mut row = 4;
            while row < 8 {
                let letter = 16 * row + 1;
                shifts[row as usize] = value(letter).wrapping_sub(letter);
                row += 1;
            }
            shifts
        };
        Self {
            rows: twice(&ROWS),
            columns: twice(&COLUMNS),
            shifts: twice(&SHIFTS),
        }
    }

    /// The upper nibbles. Makes every byte of `bad` other than zero where there is no letter.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn judge(self, text: __m256i, bad: &mut __m256i) -> __m256i {
        let nibble = _mm256_set1_epi8(0x0f);
        let row = _mm256_and_si256(_mm256_srli_epi16::<4>(text), nibble);
        let column = _mm256_and_si256(text, nibble);
        let rows = _mm256_shuffle_epi8(self.rows, row);
        let columns = _mm256_shuffle_epi8(self.columns, column);
        *bad = _mm256_or_si256(*bad, _mm256_and_si256(rows, columns));
        row
    }

    /// Eight groups of 24 bits, the first byte of each on top.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn groups(self, text: &[u8; 32], bad: &mut __m256i) -> __m256i {
        let text = load(text);
        let row = self.judge(text, bad);
        let slash = _mm256_cmpeq_epi8(text, _mm256_set1_epi8(b'/' as i8));
        let shifts = _mm256_shuffle_epi8(self.shifts, _mm256_add_epi8(row, slash));
        let values = _mm256_add_epi8(text, shifts);
        let pairs = _mm256_maddubs_epi16(values, _mm256_set1_epi32(0x0140_0140));
        _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x0001_1000))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn twice(table: &[u8; 16]) -> __m256i {
    // SAFETY: the reference is good for 16 bytes, and the load asks for no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Whether a word of four bytes has its sign bit set.
#[inline]
#[target_feature(enable = "avx2")]
fn negative(signs: __m256i) -> bool {
    _mm256_movemask_ps(_mm256_castsi256_ps(signs)) != 0
}

/// Whether a letter is bad.
#[inline]
#[target_feature(enable = "avx2")]
fn any(bad: __m256i) -> bool {
    _mm256_testz_si256(bad, bad) == 0
}

/// How 24 items get from [`Letters::groups`] to three vectors of eight: `pick` brings the groups that hold four items into
/// each half of a vector, `spread` their bytes to their places there.
struct Route {
    pick: [[u8; 32]; 3],
    spread: [[u8; 32]; 3],
}

impl Route {
    /// For items of `size` bytes that lie `at` bytes up in their four.
    const fn new(size: usize, at: usize) -> Self {
        let mut route = Self {
            pick: [[0; 32]; 3],
            spread: [[0x80; 32]; 3],
        };
        let mut half = 0;
        while half < 6 {
            let (vector, base) = (half / 2, half % 2 * 16);
            // A vector of groups is 24 bytes, a multiple of four items of any size here.
            let first = half * 4 * size % 24;
            let group = first / 3;
            let mut slot = 0;
            while slot < 4 {
                let picked = if group + slot < 8 { group + slot } else { 7 };
                route.pick[vector][base + 4 * slot] = picked as u8;
                slot += 1;
            }
            let mut byte = 0;
            while byte < 4 * size {
                let from = first + byte;
                let place = base + byte / size * 4 + at + byte % size;
                route.spread[vector][place] = ((from / 3 - group) * 4 + 2 - from % 3) as u8;
                byte += 1;
            }
            half += 1;
        }
        route
    }
}

#[target_feature(enable = "avx2")]
fn u8_to_i32<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<i32>]) -> Done {
    const ROUTE: Route = Route::new(1, 0);
    let letters = Letters::new();
    let (pick, spread) = (load3(&ROUTE.pick), load3(&ROUTE.spread));
    let items = blocks::<i32, STREAM, 32, 24>(text, out, |text, out, bad| {
        let groups = letters.groups(text, bad);
        for (vector, line) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let picked = _mm256_permutevar8x32_epi32(groups, pick[vector]);
            store::<STREAM, _, _>(line, _mm256_shuffle_epi8(picked, spread[vector]));
        }
    });
    Done::unsigned(items)
}

#[target_feature(enable = "avx2")]
fn i16_to_i32<const SIGNED: bool, const STREAM: bool>(
    text: &[u8],
    out: &mut [MaybeUninit<i32>],
) -> Done {
    // A signed item goes to the upper half and is shifted down.
    const ROUTES: [Route; 2] = [Route::new(2, 0), Route::new(2, 2)];
    let letters = Letters::new();
    let route = &ROUTES[SIGNED as usize];
    let (pick, spread) = (load3(&route.pick), load3(&route.spread));
    let mut signs = _mm256_setzero_si256();
    let items = blocks::<i32, STREAM, 64, 24>(text, out, |text, out, bad| {
        let text = text.as_chunks::<32>().0;
        let (first, second) = (letters.groups(&text[0], bad), letters.groups(&text[1], bad));
        // The second vector's items are the first's last four and the second's first four.
        let groups = [
            first,
            _mm256_blend_epi32::<0b1111_0000>(second, first),
            second,
        ];
        for (vector, line) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let picked = _mm256_permutevar8x32_epi32(groups[vector], pick[vector]);
            let items = _mm256_shuffle_epi8(picked, spread[vector]);
            let items = if SIGNED {
                signs = _mm256_or_si256(signs, items);
                _mm256_srai_epi32::<16>(items)
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

#[target_feature(enable = "avx2")]
fn bytes<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<u8>]) -> Done {
    // Each half's twelve bytes, in order, and then four that do not matter.
    const PACK: [u8; 16] = [2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, 0, 0, 0, 0];
    // Four vectors of six times four bytes make three of eight: each is turned to where it begins in these three.
    const TURN: [[u8; 32]; 4] = {
        let mut turn = [[0; 32]; 4];
        let mut word = 0;
        while word < 24 {
            let (vector, from) = (word / 6, word % 6);
            turn[vector][word % 8 * 4] = (from + from / 3) as u8;
            word += 1;
        }
        turn
    };
    let letters = Letters::new();
    let pack = twice(&PACK);
    let turn = [
        load(&TURN[0]),
        load(&TURN[1]),
        load(&TURN[2]),
        load(&TURN[3]),
    ];
    let mut signs = _mm256_setzero_si256();
    let items = blocks::<u8, STREAM, 128, 96>(text, out, |text, out, bad| {
        let text = text.as_chunks::<32>().0;
        let mut turned = [_mm256_setzero_si256(); 4];
        for (vector, turned) in turned.iter_mut().enumerate() {
            let packed = _mm256_shuffle_epi8(letters.groups(&text[vector], bad), pack);
            *turned = _mm256_permutevar8x32_epi32(packed, turn[vector]);
        }
        let [a, b, c, d] = turned;
        let joined = [
            _mm256_blend_epi32::<0b1100_0000>(a, b),
            _mm256_blend_epi32::<0b1111_0000>(b, c),
            _mm256_blend_epi32::<0b1111_1100>(c, d),
        ];
        for (line, bytes) in out.as_chunks_mut::<32>().0.iter_mut().zip(joined) {
            signs = _mm256_or_si256(signs, bytes);
            store::<STREAM, _, _>(line, bytes);
        }
    });
    Done {
        items,
        negative: negative(signs),
    }
}
