//! What both kernels of x86-64 share: the table, loads and stores, and the walk over blocks.
#![allow(unsafe_code)] // a prefetch; what the macro makes is checked where it is used

use std::arch::x86_64::*;

/// Letters between two checks whether all of them are letters.
pub(super) const CHECKED: usize = 2048;

/// How far ahead of the current letters the text is prefetched. The processor's own prefetcher stops at the end of a page;
/// with this, a text that lies in memory is read a quarter faster.
const AHEAD: usize = 2048;

/// Prefetches the text [`AHEAD`] bytes behind the block.
#[inline(always)]
pub(super) fn prefetch(block: &[u8]) {
    for line in block.chunks(64) {
        #[allow(unused_unsafe)] // unsafe in older compilers
        // SAFETY: a hint: it reads nothing, whatever the address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast())
        }
    }
}

/// A [`Bulk`](super::table::Bulk) of a function that needs the kernel's instructions, and whose last parameter says whether
/// it writes around the cache.
macro_rules! bulk {
    ($function:ident $(, $signed:literal)?) => {
        |text, out, stores| match stores {
            // SAFETY: the table that this is for is made where the instructions are there.
            Stores::Cached => unsafe { $function::<$($signed,)? false>(text, out) },
            // SAFETY: as above.
            Stores::Streaming => unsafe { $function::<$($signed,)? true>(text, out) },
        }
    };
}

/// What differs between the kernels in the width of a vector alone. The module supplies `alphabet_len`, `bytes`, `u8_to_i32`,
/// `i16_to_i32`, and `any`, which says whether a vector of bad letters has one.
macro_rules! kernel {
    (
        name: $name:literal, instructions: [$($feature:tt),+], enable: $enable:literal,
        vector: $vector:ty, zero: $zero:ident, load: $load:ident, store: $store:ident, stream: $stream:ident
    ) => {
        /// The kernel, if this machine has the instructions.
        pub(super) fn table() -> Option<Table> {
            let here = $(is_x86_feature_detected!($feature))&&+;
            here.then_some(Table {
                name: $name,
                // SAFETY: the instructions are there.
                alphabet_len: |text| unsafe { alphabet_len(text) },
                bytes: bulk!(bytes),
                u8_to_i32: bulk!(u8_to_i32),
                u16_to_i32: bulk!(i16_to_i32, false),
                i16_to_i32: bulk!(i16_to_i32, true),
                i32_to_i32: bulk!(i32_to_i32),
            })
        }

        const VECTOR: usize = size_of::<$vector>();

        type Line<T, const N: usize> = [MaybeUninit<T>; N];

        #[inline]
        #[target_feature(enable = $enable)]
        fn load(line: &[u8; VECTOR]) -> $vector {
            // SAFETY: the reference is good for a vector, and the load asks for no alignment.
            unsafe { $load(line.as_ptr().cast()) }
        }

        #[inline]
        #[target_feature(enable = $enable)]
        fn load3(lines: &[[u8; VECTOR]; 3]) -> [$vector; 3] {
            [load(&lines[0]), load(&lines[1]), load(&lines[2])]
        }

        /// A vector of the output. [`blocks`] checks the alignment that streaming needs.
        #[inline]
        #[target_feature(enable = $enable)]
        fn store<const STREAM: bool, T, const N: usize>(line: &mut Line<T, N>, value: $vector) {
            const { assert!(size_of::<Line<T, N>>() == VECTOR) };
            let line = line.as_mut_ptr().cast();
            if STREAM {
                // SAFETY: a writable vector, a whole number of vectors from an output that `blocks` found to be aligned.
                unsafe { $stream(line, value) }
            } else {
                // SAFETY: a writable vector, and the store asks for no alignment.
                unsafe { $store(line, value) }
            }
        }

        /// Runs `block` over whole blocks for as long as every letter is one, and says how many items that made.
        #[inline]
        #[target_feature(enable = $enable)]
        fn blocks<T, const STREAM: bool, const LETTERS: usize, const ITEMS: usize>(
            text: &[u8],
            out: &mut [MaybeUninit<T>],
            mut block: impl FnMut(&[u8; LETTERS], &mut Line<T, ITEMS>, &mut $vector),
        ) -> usize {
            const { assert!((ITEMS * size_of::<T>()).is_multiple_of(VECTOR)) };
            const { assert!(CHECKED.is_multiple_of(LETTERS)) };
            assert!(!STREAM || out.as_ptr().addr().is_multiple_of(VECTOR));
            let mut done = 0;
            for (text, out) in text
                .chunks(CHECKED)
                .zip(out.chunks_mut(CHECKED / LETTERS * ITEMS))
            {
                let (text, out) = (text.as_chunks().0, out.as_chunks_mut().0);
                let mut bad = $zero();
                for (text, out) in text.iter().zip(&mut *out) {
                    prefetch(text);
                    block(text, out, &mut bad);
                }
                if any(bad) {
                    break;
                }
                done += text.len().min(out.len()) * ITEMS;
            }
            if STREAM {
                // Before another thread can learn that the output is there.
                _mm_sfence();
            }
            done
        }

        /// An item is its four bytes, little-endian as this machine is.
        #[target_feature(enable = $enable)]
        fn i32_to_i32<const STREAM: bool>(text: &[u8], out: &mut [MaybeUninit<i32>]) -> Done {
            // SAFETY: the same memory as bytes.
            let out = unsafe {
                std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size_of_val(out))
            };
            let done = bytes::<STREAM>(text, out);
            Done {
                items: done.items / 4,
                ..done
            }
        }
    };
}
pub(super) use {bulk, kernel};
