//! The kernel for every machine: table lookups, no unsafe code. The tests hold the others against it.

use std::mem::MaybeUninit;

use super::scalar::{ALPHABET, Bytes, NO_LETTER, value};
use super::table::{Bulk, Done, Stores, Table};

pub(super) const TABLE: Table = Table {
    name: "portable",
    alphabet_len,
    bytes: Item::BYTES.bulk,
    u8_to_i32: Item::U8.bulk,
    u16_to_i32: Item::U16.bulk,
    i16_to_i32: Item::I16.bulk,
    i32_to_i32: Item::I32.bulk,
};

/// How an item is made of decoded bytes.
pub(super) struct Item<T> {
    /// Bytes of one.
    pub(super) size: usize,
    /// The next one of the decoded stream.
    pub(super) one: fn(&mut Bytes<'_>) -> Result<T, usize>,
    /// Many.
    pub(super) bulk: Bulk<T>,
    pub(super) negative: fn(&T) -> bool,
}

impl Item<u8> {
    pub(super) const BYTES: Self = Self {
        size: 1,
        one: |bytes| bytes.next(),
        bulk: |text, out, _: Stores| Done::unsigned(decode(text, out, |[byte]| byte)),
        negative: |_| false,
    };
}

macro_rules! item {
    ($name:ident, $t:ty) => {
        pub(super) const $name: Self = Self {
            size: size_of::<$t>(),
            one: |bytes| Ok(<$t>::from_le_bytes(bytes.array()?).into()),
            bulk: |text, out, _: Stores| {
                let mut signs = 0;
                let items = decode(text, out, |bytes| {
                    let item = <$t>::from_le_bytes(bytes).into();
                    signs |= item;
                    item
                });
                let negative = signs < 0;
                Done { items, negative }
            },
            negative: |&item| item < 0,
        };
    };
}

impl Item<i32> {
    item!(U8, u8);
    item!(U16, u16);
    item!(I16, i16);
    item!(I32, i32);
}

/// Values shifted to the place in 24 bits that each of a group's four letters has.
static PLACES: [[u32; 256]; 4] = {
    let mut places = [[!0; 256]; 4];
    let mut place = 0;
    while place < 4 {
        let mut value = 0;
        while value < 64 {
            places[place][ALPHABET[value] as usize] = (value as u32) << (18 - 6 * place);
            value += 1;
        }
        place += 1;
    }
    places
};

pub(super) fn alphabet_len(text: &[u8]) -> usize {
    // Compares without branches, which the compiler turns into vectors of whatever width the target has.
    let good = |block: &[u8; 64]| {
        let bad =
            |&byte: &u8| u8::from(!byte.is_ascii_alphanumeric() & (byte != b'+') & (byte != b'/'));
        block.iter().map(bad).fold(0, |any, bad| any | bad) == 0
    };
    let blocks = text
        .as_chunks()
        .0
        .iter()
        .take_while(|&block| good(block))
        .count();
    let tail = &text[64 * blocks..];
    64 * blocks
        + tail
            .iter()
            .position(|&byte| value(byte) == NO_LETTER)
            .unwrap_or(tail.len())
}

/// Three items at a time, which are `SIZE` groups.
fn decode<T, const SIZE: usize>(
    text: &[u8],
    out: &mut [MaybeUninit<T>],
    mut item: impl FnMut([u8; SIZE]) -> T,
) -> usize {
    let mut done = 0;
    for (letters, items) in text.chunks_exact(4 * SIZE).zip(out.chunks_exact_mut(3)) {
        let mut bytes = [0; 12];
        let mut all = 0;
        for (group, bytes) in letters
            .as_chunks::<4>()
            .0
            .iter()
            .zip(bytes.as_chunks_mut::<3>().0)
        {
            let [a, b, c, d] = group.map(usize::from);
            let group = PLACES[0][a] | PLACES[1][b] | PLACES[2][c] | PLACES[3][d];
            all |= group;
            [_, bytes[0], bytes[1], bytes[2]] = group.to_be_bytes();
        }
        if all > 0xff_ffff {
            break;
        }
        for (slot, &bytes) in items.iter_mut().zip(bytes.as_chunks::<SIZE>().0) {
            slot.write(item(bytes));
        }
        done += 3;
    }
    done
}
