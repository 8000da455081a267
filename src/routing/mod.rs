//! Facts about routed experts in one pass over the rows. They differ between a broken capture and a sound one.
//!
//! Loops that the compiler vectorises check each row as a whole; only the entries of rows with a finding are read one by one.
#![allow(unsafe_code)] // a call of what is compiled for AVX2, where the processor has it

use std::ops::BitOr;

mod pairs;
#[cfg(test)]
mod tests;

use pairs::Pairs;

/// An expert id at wire width.
pub trait ExpertId: Copy + Ord + Into<i64> + From<bool> + BitOr<Output = Self> {}

impl<T: Copy + Ord + Into<i64> + From<bool> + BitOr<Output = Self>> ExpertId for T {}

/// What to hold the rows against.
#[derive(Clone, Copy)]
pub struct Expected<'a, T> {
    /// Experts of the model; ids run from 0 to one below. None: any id of 0 or more will do.
    pub num_experts: Option<i64>,
    /// Rows of an earlier turn over the same tokens, of the same size.
    pub earlier: Option<&'a [T]>,
}

/// What was found. An *entry* is the `top_k` ids of one token in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Per layer, entries whose ids are all zero.
    pub zero_entries: Vec<u64>,
    /// Ids below 0, or not below the number of experts.
    pub out_of_range: u64,
    /// The first one's row, layer and slot.
    pub first_out_of_range: Option<(usize, usize, usize)>,
    /// Entries that name an expert twice, all-zero ones apart.
    pub duplicates: u64,
    /// The first one's row and layer.
    pub first_duplicate: Option<(usize, usize)>,
    /// The longest run of equal rows: its first row and its length.
    pub longest_run: (usize, usize),
    /// Rows that differ from the earlier turn's.
    pub disagreements: u64,
    /// The first one.
    pub first_disagreement: Option<usize>,
}

/// Looks at rows [rows, layers, top_k] once, compiled for vectors of 32 bytes where an x86-64 processor has them.
///
/// # Panics
///
/// If the rows are not a whole number of `layers * top_k`, or the earlier ones are not as many.
pub fn scan<T: ExpertId>(
    ids: &[T],
    layers: usize,
    top_k: usize,
    expected: Expected<'_, T>,
) -> Facts {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { scan_rows_avx2(ids, layers, top_k, expected) };
    }
    scan_rows(ids, layers, top_k, expected)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
fn scan_rows_avx2<T: ExpertId>(
    ids: &[T],
    layers: usize,
    top_k: usize,
    expected: Expected<'_, T>,
) -> Facts {
    scan_rows(ids, layers, top_k, expected)
}

#[inline(always)]
fn scan_rows<T: ExpertId>(
    ids: &[T],
    layers: usize,
    top_k: usize,
    expected: Expected<'_, T>,
) -> Facts {
    let width = layers * top_k;
    assert!(ids.len().is_multiple_of(width), "whole rows");
    assert!(
        expected
            .earlier
            .is_none_or(|earlier| earlier.len() == ids.len()),
        "as many earlier rows"
    );
    let mut facts = Facts {
        zero_entries: vec![0; layers],
        out_of_range: 0,
        first_out_of_range: None,
        duplicates: 0,
        first_duplicate: None,
        longest_run: (0, 0),
        disagreements: 0,
        first_disagreement: None,
    };
    let end = expected.num_experts.unwrap_or(i64::MAX);
    let mut pairs = Pairs::new(layers, top_k);
    let mut run_start = 0;
    let mut before: &[T] = &[];
    for (row, now) in ids.chunks_exact(width).enumerate() {
        // One expert per token makes no pair, and may be the first one.
        if top_k == 1 || pairs.any(&ids[row * width..]) {
            facts.count_repeats(now, row, &mut pairs);
        }
        let (low, high) = now.iter().fold((now[0], now[0]), |(low, high), &id| {
            (low.min(id), high.max(id))
        });
        if low.into() < 0 || high.into() >= end {
            facts.count_outside(now, end, row, top_k);
        }
        if now != before {
            run_start = row;
        }
        if row + 1 - run_start > facts.longest_run.1 {
            facts.longest_run = (run_start, row + 1 - run_start);
        }
        before = now;
        if let Some(earlier) = expected.earlier
            && &earlier[row * width..][..width] != now
        {
            facts.disagreements += 1;
            facts.first_disagreement.get_or_insert(row);
        }
    }
    facts
}

impl Facts {
    /// Of a row in which some id appears twice within an entry; that may be the zeros of a dense layer.
    #[inline(always)]
    fn count_repeats<T: ExpertId>(&mut self, now: &[T], row: usize, pairs: &mut Pairs<T>) {
        // The loops over an entry unroll where its length is known: 8 nearly everywhere.
        match pairs.top_k() {
            4 => self.count_entries(row, now, chunks::<T, 4>(now), pairs),
            6 => self.count_entries(row, now, chunks::<T, 6>(now), pairs),
            8 => self.count_entries(row, now, chunks::<T, 8>(now), pairs),
            top_k => self.count_entries(row, now, now.chunks_exact(top_k), pairs),
        }
    }

    #[inline(always)]
    fn count_entries<'a, T: ExpertId + 'a>(
        &mut self,
        row: usize,
        now: &[T],
        entries: impl Iterator<Item = &'a [T]>,
        pairs: &mut Pairs<T>,
    ) {
        let zero = T::from(false);
        let beside_zeros = pairs.any_but_zeros(now);
        for (layer, entry) in entries.enumerate() {
            let zeros = entry.iter().filter(|&&id| id == zero).count();
            if zeros == entry.len() {
                self.zero_entries[layer] += 1;
            } else if zeros > 1 || (beside_zeros && pairs.repeats(entry)) {
                self.duplicates += 1;
                self.first_duplicate.get_or_insert((row, layer));
            }
        }
    }

    #[cold]
    fn count_outside<T: ExpertId>(&mut self, now: &[T], end: i64, row: usize, top_k: usize) {
        for (at, &id) in now.iter().enumerate() {
            if !(0..end).contains(&id.into()) {
                self.out_of_range += 1;
                self.first_out_of_range
                    .get_or_insert((row, at / top_k, at % top_k));
            }
        }
    }
}

/// The entries of a row, for the compiler to see how long they are.
#[inline(always)]
fn chunks<T, const TOP_K: usize>(row: &[T]) -> impl Iterator<Item = &[T]> {
    row.as_chunks::<TOP_K>()
        .0
        .iter()
        .map(<[T; TOP_K]>::as_slice)
}
