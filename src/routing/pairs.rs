//! Whether an entry names an expert twice.

use super::ExpertId;

/// Beyond this many experts per token, repeats are found by sorting instead of comparing every pair.
pub(super) const COMPARE_PAIRS: usize = 32;

/// Ids that are compared at a time.
const LANES: usize = 32;

/// Compares every id of a row with those behind it in its entry: the row with itself, shifted by one slot, by two, and so
/// on, each time without the ids that have no such slot. That takes no look at where an entry begins.
pub(super) struct Pairs<T> {
    top_k: usize,
    /// Per shift, as long as a row and up to whole lanes: 1 where the slot shifted to is one of the same entry, else 0.
    /// Empty where there are too many slots to compare.
    within: Vec<Vec<T>>,
    scratch: Vec<T>,
}

impl<T: ExpertId> Pairs<T> {
    pub(super) fn new(layers: usize, top_k: usize) -> Self {
        let shifts = if top_k <= COMPARE_PAIRS {
            1..top_k
        } else {
            0..0
        };
        let mask = |shift| {
            let slots = (0..top_k).cycle().take(layers * top_k);
            let mut mask: Vec<T> = slots.map(|slot| T::from(slot + shift < top_k)).collect();
            mask.resize(mask.len().next_multiple_of(LANES), T::from(false));
            mask
        };
        Self {
            top_k,
            within: shifts.map(mask).collect(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn top_k(&self) -> usize {
        self.top_k
    }

    /// Whether an id appears twice in an entry of the first row of `rows`. Where there are too many slots: maybe.
    #[inline(always)]
    pub(super) fn any(&self, rows: &[T]) -> bool {
        self.find(rows, |_| true)
    }

    /// The same of ids that are not zero.
    #[inline(always)]
    pub(super) fn any_but_zeros(&self, rows: &[T]) -> bool {
        self.find(rows, |id| id != T::from(false))
    }

    /// Whether an id appears twice.
    #[inline(always)]
    pub(super) fn repeats(&mut self, entry: &[T]) -> bool {
        if entry.len() <= COMPARE_PAIRS {
            // Without an early exit, which would cost more in wrong guesses than it saves in comparisons.
            return entry.iter().enumerate().fold(false, |found, (slot, id)| {
                entry[..slot]
                    .iter()
                    .fold(found, |found, other| found | (other == id))
            });
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(entry);
        self.scratch.sort_unstable();
        self.scratch.windows(2).any(|pair| pair[0] == pair[1])
    }

    #[inline(always)]
    fn find(&self, rows: &[T], counts: impl Fn(T) -> bool) -> bool {
        let none = T::from(false);
        let repeated = |id: T, other: T, within: T| {
            if id == other && counts(id) {
                within
            } else {
                none
            }
        };
        // Lanes of their own, because a single flag would be tested after every id.
        let mut found = [none; LANES];
        for (within, shift) in self.within.iter().zip(1..) {
            let shifted = &rows[shift..];
            if shifted.len() < within.len() {
                // The last row: behind it nothing is left to shift in, and nothing is missing.
                for ((&id, &other), &within) in rows.iter().zip(shifted).zip(within) {
                    found[0] = found[0] | repeated(id, other, within);
                }
                continue;
            }
            let ((ids, _), (others, _)) = (rows.as_chunks::<LANES>(), shifted.as_chunks::<LANES>());
            for ((ids, others), within) in ids.iter().zip(others).zip(within.as_chunks::<LANES>().0)
            {
                for lane in 0..LANES {
                    found[lane] = found[lane] | repeated(ids[lane], others[lane], within[lane]);
                }
            }
        }
        self.within.is_empty() || found.iter().any(|&lane| lane != none)
    }
}
