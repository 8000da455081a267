//! NEON: a load that deals 64 letters out by their place in the group, table lookups for everything else.
#![allow(unsafe_code)] // vector loads and stores, and calls that need the instruction set

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::mem::MaybeUninit;

use super::portable;
use super::scalar::VALUES;
use super::table::{Done, Table};

/// The kernel, if this machine has the instructions. None of them writes around the cache.
pub(super) fn table() -> Option<Table> {
    is_aarch64_feature_detected!("neon").then_some(Table {
        name: "neon",
        // SAFETY: the instructions are there; only this function makes the table.
        alphabet_len: |text| unsafe { alphabet_len(text) },
        // SAFETY: as above.
        bytes: |text, out, _| unsafe { Done::unsigned(bytes(text, out)) },
        // SAFETY: as above.
        u8_to_i32: |text, out, _| unsafe { to_i32::<1, 48, false>(text, out) },
        // SAFETY: as above.
        u16_to_i32: |text, out, _| unsafe { to_i32::<2, 24, false>(text, out) },
        // SAFETY: as above.
        i16_to_i32: |text, out, _| unsafe { to_i32::<2, 24, true>(text, out) },
        // SAFETY: as above.
        i32_to_i32: |text, out, _| unsafe { to_i32::<4, 12, false>(text, out) },
    })
}

/// Letters between two looks at whether all of them were letters.
const CHECKED: usize = 2048;

#[target_feature(enable = "neon")]
fn alphabet_len(text: &[u8]) -> usize {
    let letters = Letters::new();
    let mut done = 0;
    for block in text.as_chunks::<128>().0 {
        let mut bad = vdupq_n_u8(0);
        for line in block.as_chunks::<16>().0 {
            letters.values(load(line), &mut bad);
        }
        if vmaxvq_u8(bad) > 0x7f {
            break;
        }
        done += 128;
    }
    done + portable::alphabet_len(&text[done..])
}

/// The alphabet in eight registers.
#[derive(Clone, Copy)]
struct Letters {
    low: uint8x16x4_t,
    high: uint8x16x4_t,
}

impl Letters {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new() -> Self {
        let (lines, _) = VALUES.as_chunks::<16>();
        let four = |line: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|next| load(&lines[line + next]));
            uint8x16x4_t(a, b, c, d)
        };
        Self {
            low: four(0),
            high: four(4),
        }
    }

    /// The letters' values, a byte each. Sets the top bit of a byte of `bad` where there is no letter: either the table
    /// says so, or the byte itself is beyond the 128 that the table knows.
    #[inline]
    #[target_feature(enable = "neon")]
    fn values(self, text: uint8x16_t, bad: &mut uint8x16_t) -> uint8x16_t {
        // A lookup outside of the table gives zero, an extending one keeps what was there.
        let low = vqtbl4q_u8(self.low, text);
        let values = vqtbx4q_u8(low, self.high, vsubq_u8(text, vdupq_n_u8(64)));
        *bad = vorrq_u8(*bad, vorrq_u8(values, text));
        values
    }

    /// Sixteen groups: all their first bytes, all their second, all their third.
    #[inline]
    #[target_feature(enable = "neon")]
    fn groups(self, text: &[u8; 64], bad: &mut uint8x16_t) -> uint8x16x3_t {
        // SAFETY: the reference is good for 64 bytes, and the load asks for no alignment.
        let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(text.as_ptr()) };
        let [a, b, c, d] = [
            self.values(a, bad),
            self.values(b, bad),
            self.values(c, bad),
            self.values(d, bad),
        ];
        uint8x16x3_t(
            vsliq_n_u8::<2>(vshrq_n_u8::<4>(b), a),
            vsliq_n_u8::<4>(vshrq_n_u8::<2>(c), b),
            vsliq_n_u8::<6>(d, c),
        )
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(line: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the reference is good for 16 bytes, and the load asks for no alignment.
    unsafe { vld1q_u8(line.as_ptr()) }
}

/// Runs `block` over 64 letters at a time for as long as every one is a letter, and says how many items that made.
#[inline]
#[target_feature(enable = "neon")]
fn blocks<T, const ITEMS: usize>(
    text: &[u8],
    out: &mut [MaybeUninit<T>],
    mut block: impl FnMut(uint8x16x3_t, &mut [MaybeUninit<T>; ITEMS]),
) -> usize {
    let letters = Letters::new();
    let mut done = 0;
    for (text, out) in text
        .chunks(CHECKED)
        .zip(out.chunks_mut(CHECKED / 64 * ITEMS))
    {
        let (text, out) = (text.as_chunks().0, out.as_chunks_mut().0);
        let mut bad = vdupq_n_u8(0);
        for (text, out) in text.iter().zip(&mut *out) {
            block(letters.groups(text, &mut bad), out);
        }
        if vmaxvq_u8(bad) > 0x7f {
            break;
        }
        done += text.len().min(out.len()) * ITEMS;
    }
    done
}

#[target_feature(enable = "neon")]
fn bytes(text: &[u8], out: &mut [MaybeUninit<u8>]) -> usize {
    blocks::<u8, 48>(text, out, |groups, out| {
        // SAFETY: 48 writable bytes, and the store asks for no alignment.
        unsafe { vst3q_u8(out.as_mut_ptr().cast(), groups) }
    })
}

/// Items of `SIZE` bytes, of which sixteen groups make `ITEMS`.
#[target_feature(enable = "neon")]
fn to_i32<const SIZE: usize, const ITEMS: usize, const SIGNED: bool>(
    text: &[u8],
    out: &mut [MaybeUninit<i32>],
) -> Done {
    const { assert!(SIZE * ITEMS == 48) };
    let spread = const { spread(SIZE, SIGNED) };
    let mut signs = vdupq_n_s32(0);
    let items = blocks::<i32, ITEMS>(text, out, |groups, out| {
        for (line, spread) in out.as_chunks_mut::<4>().0.iter_mut().zip(&spread) {
            let items = vreinterpretq_s32_u8(vqtbl3q_u8(groups, load(spread)));
            let items = if SIGNED {
                vshrq_n_s32::<16>(items)
            } else {
                items
            };
            if SIGNED || SIZE == 4 {
                signs = vorrq_s32(signs, items);
            }
            // SAFETY: 16 writable bytes, and the store asks for no alignment.
            unsafe { vst1q_s32(line.as_mut_ptr().cast(), items) }
        }
    });
    Done {
        items,
        negative: vminvq_s32(signs) < 0,
    }
}

/// Where [`Letters::groups`] has the bytes of four items at a time, of `size` bytes each. A signed item goes to the upper
/// half of its four bytes, to be shifted down; what is left of them is looked up outside of the table, which gives zero.
const fn spread(size: usize, signed: bool) -> [[u8; 16]; 12] {
    let mut spread = [[0xff; 16]; 12];
    let mut byte = 0;
    while byte < 48 {
        let item = byte / size;
        let place = item % 4 * 4 + byte % size + if signed { 4 - size } else { 0 };
        spread[item / 4][place] = (byte % 3 * 16 + byte / 3) as u8;
        byte += 1;
    }
    spread
}
