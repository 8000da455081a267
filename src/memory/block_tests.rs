#![allow(unsafe_code)] // writes through the addresses of blocks

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Writes a word at every page of the first `bytes` bytes, and at their end.
fn stamp(block: &Block, bytes: usize) {
    assert!(bytes <= block.size());
    for at in (0..bytes.saturating_sub(8))
        .step_by(4096)
        .chain(bytes.checked_sub(8))
    {
        // SAFETY: the word lies in the block, which is this test's own.
        unsafe { block.start().add(at).cast::<usize>().write_unaligned(!at) };
    }
}

fn is_stamped(block: &Block, bytes: usize) -> bool {
    // SAFETY: as above; `stamp` wrote the word.
    let read = |at| unsafe { block.start().add(at).cast::<usize>().read_unaligned() };
    (0..bytes.saturating_sub(8))
        .step_by(4096)
        .chain(bytes.checked_sub(8))
        .all(|at| read(at) == !at)
}

#[test]
fn sizes_and_alignments() {
    for (bytes, size, alignment) in [
        (0, 0, 64),
        (1, 64, 64),
        (64, 64, 64),
        (65, 128, 64),
        (64 * KIB - 1, 64 * KIB, 64),
        (64 * KIB, 64 * KIB, 4096),
        (64 * KIB + 1, 68 * KIB, 4096),
        (2 * MIB - 1, 2 * MIB, 4096),
        (2 * MIB, 2 * MIB, 4096),
        (3 * MIB + 5, 3 * MIB + 4 * KIB, 4096),
    ] {
        let block = Block::new(bytes).unwrap();
        assert!(
            block.start().as_ptr().addr().is_multiple_of(alignment),
            "{bytes}"
        );
        // A recycled block may be half as large again.
        let most = if bytes < MAPPED_FROM {
            size
        } else {
            size + size / 2
        };
        assert!(
            (size..=most).contains(&block.size()),
            "{bytes}: {}",
            block.size()
        );
        stamp(&block, if block.size() >= 8 { block.size() } else { 0 });
    }
}

#[test]
#[cfg(all(target_os = "linux", not(any(miri, no_mremap))))]
fn fresh_pages_cost_their_size_and_begin_at_a_huge_page() {
    for bytes in [2 * MIB, 2 * MIB + 1, 5 * MIB - 1, 40 * MIB + 4095] {
        let mapping = Mapping::new(bytes).unwrap();
        assert!(
            mapping.start().as_ptr().addr().is_multiple_of(2 * MIB),
            "{bytes}"
        );
        assert_eq!(mapping.size(), bytes.next_multiple_of(4096));
    }
}

#[test]
fn growth_keeps_what_is_there() {
    let mut sizes = vec![
        0,
        8,
        100,
        5000,
        60 * KIB,
        64 * KIB,
        100 * KIB,
        MIB,
        3 * MIB,
        7 * MIB,
    ];
    if !cfg!(miri) {
        sizes.extend([8 * MIB, 9 * MIB, 20 * MIB, 33 * MIB]);
    }
    let passing = |expected| Lifetime::Transient { expected };
    let lifetimes = [
        Lifetime::Result,
        passing(0),
        passing(5 * MIB),
        passing(30 * MIB),
    ];
    let starts = sizes.iter().enumerate();
    for ((from, &first), lifetime) in
        starts.flat_map(|start| lifetimes.map(|lifetime| (start, lifetime)))
    {
        let mut block = Block::new(first).unwrap();
        let mut used = first;
        stamp(&block, used);
        for &next in &sizes[from..] {
            block.grow(next, used, lifetime).unwrap();
            assert!(is_stamped(&block, used), "{first} {used} {next}");
            assert!(block.start().as_ptr().addr().is_multiple_of(ALIGNMENT));
            used = next;
            stamp(&block, used);
        }
    }
}

#[test]
fn room_for_more_than_was_asked_for() {
    let mut block = Block::empty();
    block
        .grow(1000, 0, Lifetime::Transient { expected: 0 })
        .unwrap();
    assert_eq!(block.size(), 1024);
    for (least, room) in [(1025, 2048), (10_000, 10_048), (10_049, 20_096)] {
        block.grow(least, 0, Lifetime::Result).unwrap();
        assert_eq!(block.size(), room);
    }
    if cfg!(miri) {
        return;
    }
    // Of what is large, a quarter: the next body may end just behind this one.
    let mut block = Block::new(16 * MIB).unwrap();
    let size = block.size();
    block.grow(size + 1, 0, Lifetime::Result).unwrap();
    assert!(block.size() >= size + size / 4 && block.size() < size + size / 4 + 64 * KIB);
}

#[test]
fn room_for_what_is_expected() {
    if cfg!(miri) {
        return;
    }
    // Pages are recycled in whatever size they have: the size before is what counts.
    let grown = |from: usize, expected: usize| {
        let mut block = Block::new(from).unwrap();
        let size = block.size();
        let lifetime = Lifetime::Transient { expected };
        block.grow(size + 1, from, lifetime).unwrap();
        (size, block.size())
    };
    let expected = 37 * MIB;
    for from in [MIB, 9 * MIB, 27 * MIB] {
        let (_, size) = grown(from, expected);
        assert!(
            size >= expected && size <= expected / 3 * 4 + 4096,
            "{from} {size}"
        );
    }
    // One that holds more than was expected does so by little; a small one may stay small.
    let (before, size) = grown(40 * MIB, expected);
    assert!(size > before && size <= before / 4 * 5 + 64 * KIB);
    assert!(grown(100 * KIB, expected).1 < MIB);
}

#[test]
fn growth_with_neighbours_in_the_way() {
    let mut blocks: Vec<(Block, usize)> = (0..6)
        .map(|_| (Block::new(70 * KIB).unwrap(), 70 * KIB))
        .collect();
    for step in 1..=if cfg!(miri) { 3 } else { 8 } {
        for (block, used) in &mut blocks {
            stamp(block, *used);
        }
        for (block, used) in &mut blocks {
            let bytes = *used * 2 + step * 4096;
            block.grow(bytes, *used, Lifetime::Result).unwrap();
            assert!(is_stamped(block, *used));
            *used = bytes;
        }
    }
}

#[test]
fn growth_may_forget_what_is_not_used() {
    let mut block = Block::new(64).unwrap();
    stamp(&block, 16);
    block.grow(100 * KIB, 16, Lifetime::Result).unwrap();
    assert!(is_stamped(&block, 16) && block.size() >= 100 * KIB);
}

#[test]
fn too_much_is_a_value_and_harms_nothing() {
    for bytes in [usize::MAX, usize::MAX / 2, 1 << 60, 1 << 50] {
        assert!(Block::new(bytes).is_err(), "{bytes}");
        let lifetimes = [0, 20 * MIB, usize::MAX].map(|expected| Lifetime::Transient { expected });
        let firsts = [0, 100, 100 * KIB, 9 * MIB];
        for (first, lifetime) in firsts
            .iter()
            .flat_map(|&first| lifetimes.map(|lifetime| (first, lifetime)))
        {
            let mut block = Block::new(first).unwrap();
            stamp(&block, first);
            let before = (block.start(), block.size());
            assert!(block.grow(bytes, first, lifetime).is_err());
            assert_eq!((block.start(), block.size()), before);
            assert!(is_stamped(&block, first));
        }
    }
}

#[test]
fn an_expectation_that_cannot_be_met_costs_nothing() {
    for expected in [usize::MAX, 1 << 60, 1 << 50] {
        let mut block = Block::new(MIB).unwrap();
        let size = block.size();
        stamp(&block, size);
        let lifetime = Lifetime::Transient { expected };
        block.grow(size + 1, size, lifetime).unwrap();
        assert!(block.size() > size && is_stamped(&block, size));
    }
}

#[test]
#[should_panic(expected = "65 bytes used of 64")]
fn more_used_than_there_is() {
    let _ = Block::new(64).unwrap().grow(100, 65, Lifetime::Result);
}
