//! Layers that lie one behind the other, written as rows of all layers.

use std::mem::MaybeUninit;

use super::around::{Around, prefetch};
use crate::memory::Plain;

/// Bytes of ids that are looked at together: what is read and what is written stay in the first level of the cache.
const TILE: usize = 24 << 10;

/// Rows that are looked at together, at most: of a layer they lie end to end.
const ROWS: usize = 512;

/// The wanted rows of one router.
pub(super) struct Layer<'a> {
    /// Little-endian.
    pub(super) bytes: &'a [u8],
    /// Ids are of two bytes.
    pub(super) wide: bool,
    /// The largest id.
    pub(super) last: u16,
}

impl Layer<'_> {
    /// The position of the first id that is too large.
    pub(super) fn beyond(&self) -> Option<usize> {
        match self.wide {
            false => self.bytes.iter().position(|&id| u16::from(id) > self.last),
            true => {
                let mut ids = self.bytes.as_chunks().0.iter();
                ids.position(|&id| u16::from_le_bytes(id) > self.last)
            }
        }
    }

    /// Copies ids from number `first` on, and returns the largest.
    #[inline(always)]
    fn copy<E: Id>(&self, first: usize, to: &mut [E]) -> u16 {
        match self.wide {
            false => {
                let mut most = 0;
                let from = &self.bytes[first..][..to.len()];
                for (slot, &id) in to.iter_mut().zip(from) {
                    *slot = E::from(id);
                    most = most.max(id);
                }
                prefetch(
                    self.bytes
                        .get(first + to.len()..first + 2 * to.len())
                        .unwrap_or_default(),
                );
                most.into()
            }
            true => {
                let mut most = 0;
                let from = &self.bytes.as_chunks().0[first..][..to.len()];
                for (slot, &id) in to.iter_mut().zip(from) {
                    let id = u16::from_le_bytes(id);
                    *slot = E::of(id);
                    most = most.max(id);
                }
                let ahead = 2 * (first + to.len())..2 * (first + 2 * to.len());
                prefetch(self.bytes.get(ahead).unwrap_or_default());
                most
            }
        }
    }
}

/// The type of ids as they are read: that of the widest layer.
pub(super) trait Id: Plain + From<u8> {
    const ZERO: Self;

    /// Of an id that fits.
    fn of(id: u16) -> Self;
}

impl Id for u8 {
    const ZERO: Self = 0;

    fn of(id: u16) -> Self {
        id as u8
    }
}

impl Id for u16 {
    const ZERO: Self = 0;

    fn of(id: u16) -> Self {
        id
    }
}

/// Writes rows x layers x experts; whether no id is too large.
///
/// A position of every layer in turn would be read from places that fall on the same lines of the cache. So some rows of
/// each layer are copied to a tile, which is read row by row.
pub(super) fn write<E: Id, T: Plain + From<E>>(
    layers: &[Layer<'_>],
    shape: [usize; 3],
    out: &mut [MaybeUninit<T>],
) -> bool {
    let [rows, count, top_k] = shape;
    let fill = match top_k {
        1 => fill::<1, E, T>,
        2 => fill::<2, E, T>,
        4 => fill::<4, E, T>,
        6 => fill::<6, E, T>,
        8 => fill::<8, E, T>,
        10 => fill::<10, E, T>,
        _ => fill_any,
    };
    let row = count * top_k;
    let mut around = Around::new(out, row);
    let group = around.rows();
    let tall = (TILE / (row * size_of::<E>()).max(1))
        .min(ROWS)
        .next_multiple_of(group)
        .max(group);
    let mut tile = vec![E::ZERO; tall.min(rows) * row];
    let mut fits = true;
    for first in (0..rows).step_by(tall) {
        let tall = tall.min(rows - first);
        let tile = &mut tile[..tall * row];
        for (layer, ids) in layers.iter().zip(tile.chunks_exact_mut(tall * top_k)) {
            fits &= layer.copy(first * top_k, ids) <= layer.last;
        }
        for at in (0..tall).step_by(group) {
            around.next(|rows| fill(tile, [tall, at], rows, [count, top_k]));
        }
    }
    fits
}

/// Writes rows from row `at` of a tile on. The compiler knows how many ids a layer has in a row.
#[inline(always)]
fn fill<const K: usize, E: Id, T: Plain + From<E>>(
    tile: &[E],
    [tall, at]: [usize; 2],
    rows: &mut [MaybeUninit<T>],
    [count, _]: [usize; 2],
) {
    let rows = rows.as_chunks_mut::<K>().0.chunks_exact_mut(count);
    for (i, row) in rows.enumerate() {
        for (slots, ids) in row.iter_mut().zip(tile.chunks_exact(tall * K)) {
            for (slot, &id) in slots.iter_mut().zip(&ids.as_chunks::<K>().0[at + i]) {
                slot.write(id.into());
            }
        }
    }
}

fn fill_any<E: Id, T: Plain + From<E>>(
    tile: &[E],
    [tall, at]: [usize; 2],
    rows: &mut [MaybeUninit<T>],
    [count, top_k]: [usize; 2],
) {
    for (i, row) in rows.chunks_exact_mut(count * top_k).enumerate() {
        for (slots, ids) in row
            .chunks_exact_mut(top_k)
            .zip(tile.chunks_exact(tall * top_k))
        {
            for (slot, &id) in slots.iter_mut().zip(&ids[(at + i) * top_k..]) {
                slot.write(id.into());
            }
        }
    }
}
