//! Against a scan of nested vectors that computes one fact at a time.

use std::collections::HashSet;

use proptest::prelude::*;

use super::pairs::COMPARE_PAIRS;
use super::*;

type Rows = Vec<Vec<Vec<i64>>>;

fn slow_scan(
    rows: &Rows,
    layers: usize,
    num_experts: Option<i64>,
    earlier: Option<&Rows>,
) -> Facts {
    let entries = || {
        rows.iter().enumerate().flat_map(|(row, layers)| {
            layers
                .iter()
                .enumerate()
                .map(move |(layer, entry)| (row, layer, entry))
        })
    };
    let zero = |entry: &Vec<i64>| entry.iter().all(|id| *id == 0);
    let outside: Vec<_> = entries()
        .flat_map(|(row, layer, entry)| {
            entry
                .iter()
                .enumerate()
                .map(move |(slot, id)| ((row, layer, slot), *id))
        })
        .filter(|(_, id)| *id < 0 || num_experts.is_some_and(|end| *id >= end))
        .map(|(place, _)| place)
        .collect();
    let repeated: Vec<_> = entries()
        .filter(|(_, _, entry)| !zero(entry))
        .filter(|(_, _, entry)| entry.iter().collect::<HashSet<_>>().len() < entry.len())
        .map(|(row, layer, _)| (row, layer))
        .collect();
    let mut longest_run = (0, 0);
    for start in 0..rows.len() {
        let length = rows[start..]
            .iter()
            .take_while(|row| **row == rows[start])
            .count();
        if length > longest_run.1 {
            longest_run = (start, length);
        }
    }
    let differing: Vec<_> = (0..rows.len())
        .filter(|row| earlier.is_some_and(|earlier| earlier[*row] != rows[*row]))
        .collect();
    Facts {
        zero_entries: (0..layers)
            .map(|layer| rows.iter().filter(|row| zero(&row[layer])).count() as u64)
            .collect(),
        out_of_range: outside.len() as u64,
        first_out_of_range: outside.first().copied(),
        duplicates: repeated.len() as u64,
        first_duplicate: repeated.first().copied(),
        longest_run,
        disagreements: differing.len() as u64,
        first_disagreement: differing.first().copied(),
    }
}

fn flat<T: TryFrom<i64>>(rows: &Rows) -> Vec<T>
where
    T::Error: std::fmt::Debug,
{
    rows.iter()
        .flatten()
        .flatten()
        .map(|id| T::try_from(*id).unwrap())
        .collect()
}

/// Few distinct ids and repeated rows, so that everything there is to find occurs.
fn rows(low: i64) -> impl Strategy<Value = (usize, usize, Rows, Rows)> {
    (
        1..4_usize,
        prop_oneof![4 => 1..10_usize, 1 => Just(COMPARE_PAIRS), 1 => Just(COMPARE_PAIRS + 3)],
        0..7_usize,
    )
        .prop_flat_map(move |(layers, top_k, count)| {
            let id = prop_oneof![3 => Just(0_i64), 4 => 0..40_i64, 1 => low..3];
            let entry = prop_oneof![
                1 => Just((0..top_k as i64).collect::<Vec<_>>()),
                1 => Just(vec![0; top_k]),
                2 => proptest::collection::vec(id, top_k),
            ];
            let row = proptest::collection::vec(entry, layers);
            let kinds = proptest::collection::vec(row, 1..4);
            (
                Just(layers),
                Just(top_k),
                kinds,
                proptest::collection::vec((0..3_usize, 0..3_usize), count),
            )
        })
        .prop_map(|(layers, top_k, kinds, picks)| {
            let pick = |number: usize| kinds[number % kinds.len()].clone();
            let now = picks.iter().map(|(number, _)| pick(*number)).collect();
            let earlier = picks.iter().map(|(_, number)| pick(*number)).collect();
            (layers, top_k, now, earlier)
        })
}

fn agree<T: ExpertId + TryFrom<i64>>(
    (layers, top_k, now, earlier): &(usize, usize, Rows, Rows),
    num_experts: Option<i64>,
    with_earlier: bool,
) where
    <T as TryFrom<i64>>::Error: std::fmt::Debug,
{
    let (ids, before) = (flat::<T>(now), flat::<T>(earlier));
    let expected = Expected {
        num_experts,
        earlier: with_earlier.then_some(before.as_slice()),
    };
    let wanted = slow_scan(now, *layers, num_experts, with_earlier.then_some(earlier));
    assert_eq!(scan(&ids, *layers, *top_k, expected), wanted);
    assert_eq!(scan_rows(&ids, *layers, *top_k, expected), wanted);
}

proptest! {
    #[test]
    fn unsigned_rows(given in rows(0), num_experts in proptest::option::of(1..45_i64), earlier: bool) {
        agree::<u8>(&given, num_experts, earlier);
        agree::<u16>(&given, num_experts, earlier);
    }

    #[test]
    fn signed_rows(given in rows(-3), num_experts in proptest::option::of(1..45_i64), earlier: bool) {
        agree::<i16>(&given, num_experts, earlier);
        agree::<i32>(&given, num_experts, earlier);
    }
}

#[test]
fn every_pair_of_slots_at_every_place() {
    for top_k in [2, 3, 4, 6, 8, 11] {
        let (layers, rows) = (5, 3);
        // Entries whose last id is the next one's first: what lies across their border is no pair.
        let entry =
            |layer: usize| (0..top_k).map(move |slot| (1 + layer * (top_k - 1) + slot) as i64);
        let row: Vec<Vec<i64>> = (0..layers).map(|layer| entry(layer).collect()).collect();
        let sound: Rows = vec![row; rows];
        let nothing = Expected {
            num_experts: None,
            earlier: None,
        };
        let facts = scan::<u16>(&flat(&sound), layers, top_k, nothing);
        assert_eq!((facts.duplicates, facts.longest_run), (0, (0, rows)));
        let entries = (0..rows).flat_map(|row| (0..layers).map(move |layer| (row, layer)));
        for (row, layer) in entries {
            for (one, other) in (1..top_k).flat_map(|one| (0..one).map(move |other| (one, other))) {
                let mut given = sound.clone();
                given[row][layer][one] = given[row][layer][other];
                let facts = scan::<u16>(&flat(&given), layers, top_k, nothing);
                assert_eq!(facts.duplicates, 1, "{top_k} {row} {layer} {one} {other}");
                assert_eq!(facts.first_duplicate, Some((row, layer)));
            }
        }
    }
}

#[test]
fn no_rows() {
    let nothing = Expected {
        num_experts: Some(4),
        earlier: None,
    };
    let facts = scan::<u8>(&[], 2, 2, nothing);
    assert_eq!(facts.zero_entries, [0, 0]);
    assert_eq!(facts.longest_run, (0, 0));
}
