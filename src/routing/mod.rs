//! What routed experts look like, in one pass over the rows: the facts from which a user tells a broken capture from a
//! sound one.

#[cfg(test)]
mod tests;

/// Beyond this many experts per token, repeats are found by sorting instead of comparing every pair.
const COMPARE_PAIRS: usize = 16;

/// An expert id at wire width.
pub(crate) trait ExpertId: Copy + Ord + Into<i64> {}

impl<T: Copy + Ord + Into<i64>> ExpertId for T {}

/// What to hold the rows against.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a, T> {
    /// Experts of the model; ids run from 0 to one below. None: any id of 0 or more will do.
    pub(crate) num_experts: Option<i64>,
    /// Rows of an earlier turn over the same tokens, of the same size.
    pub(crate) earlier: Option<&'a [T]>,
}

/// What was found. An *entry* is the `top_k` ids of one token in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Per layer, entries whose ids are all zero.
    pub(crate) zero_entries: Vec<u64>,
    /// Ids below 0, or not below the number of experts; the first one's row, layer and slot.
    pub(crate) out_of_range: u64,
    pub(crate) first_out_of_range: Option<(usize, usize, usize)>,
    /// Entries that name an expert twice, all-zero ones apart; the first one's row and layer.
    pub(crate) duplicates: u64,
    pub(crate) first_duplicate: Option<(usize, usize)>,
    /// The longest run of equal rows: its first row and its length.
    pub(crate) longest_run: (usize, usize),
    /// Rows that differ from the earlier turn's; the first one.
    pub(crate) disagreements: u64,
    pub(crate) first_disagreement: Option<usize>,
}

/// Looks at rows [rows, layers, top_k] once.
///
/// # Panics
///
/// If the rows are not a whole number of `layers * top_k`, or the earlier ones are not as many.
pub(crate) fn scan<T: ExpertId>(
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
    let mut scratch = Vec::new();
    let mut run_start = 0;
    let mut before: &[T] = &[];
    for (row, now) in ids.chunks_exact(width).enumerate() {
        for (layer, entry) in now.chunks_exact(top_k).enumerate() {
            let (mut low, mut high) = (entry[0], entry[0]);
            for &id in &entry[1..] {
                low = low.min(id);
                high = high.max(id);
            }
            if low.into() == 0 && high.into() == 0 {
                facts.zero_entries[layer] += 1;
            } else if repeats(entry, &mut scratch) {
                facts.duplicates += 1;
                facts.first_duplicate.get_or_insert((row, layer));
            }
            if low.into() < 0 || high.into() >= end {
                facts.count_outside(entry, end, row, layer);
            }
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
    #[cold]
    fn count_outside<T: ExpertId>(&mut self, entry: &[T], end: i64, row: usize, layer: usize) {
        for (slot, &id) in entry.iter().enumerate() {
            if !(0..end).contains(&id.into()) {
                self.out_of_range += 1;
                self.first_out_of_range.get_or_insert((row, layer, slot));
            }
        }
    }
}

/// Whether an id appears twice.
fn repeats<T: ExpertId>(entry: &[T], scratch: &mut Vec<T>) -> bool {
    if entry.len() <= COMPARE_PAIRS {
        // Without an early exit, which would cost more in wrong guesses than it saves in comparisons.
        return entry.iter().enumerate().fold(false, |found, (slot, id)| {
            entry[..slot]
                .iter()
                .fold(found, |found, other| found | (other == id))
        });
    }
    scratch.clear();
    scratch.extend_from_slice(entry);
    scratch.sort_unstable();
    scratch.windows(2).any(|pair| pair[0] == pair[1])
}
