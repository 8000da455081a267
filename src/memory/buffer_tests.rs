#![allow(unsafe_code)] // says how many items were written

use proptest::prelude::*;

use super::*;

#[test]
fn empty_without_memory() {
    let buffer = Buffer::<f64>::default();
    assert_eq!((buffer.len(), buffer.capacity), (0, 0));
    assert_eq!(buffer.as_slice(), &[] as &[f64]);
    let (block, len) = buffer.into_block();
    assert_eq!((block.size(), len), (0, 0));
}

#[test]
fn the_capacity_asked_for() {
    for capacity in [0, 1, 15, 16, 1000, 16_384, 100_000, 800_000] {
        let mut buffer = Buffer::<i32>::with_capacity(capacity).unwrap();
        assert!(buffer.is_empty() && buffer.capacity >= capacity);
        let start = buffer.as_slice().as_ptr();
        for item in 0..capacity as i32 {
            buffer.push(item).unwrap();
        }
        assert_eq!(
            buffer.as_slice().as_ptr(),
            start,
            "moved below its capacity"
        );
        assert!(buffer.as_slice().iter().copied().eq(0..capacity as i32));
    }
}

#[test]
fn the_end_goes() {
    for (count, rest) in [
        (0, vec![]),
        (2, vec![1, 2]),
        (3, vec![1, 2, 3]),
        (9, vec![1, 2, 3]),
    ] {
        let mut buffer = Buffer::new();
        buffer.extend_from_slice(&[1, 2, 3]).unwrap();
        buffer.truncate(count);
        assert_eq!(buffer.as_slice(), rest);
    }
}

#[test]
fn the_front_goes() {
    for (count, rest) in [(0, vec![1, 2, 3]), (1, vec![2, 3]), (3, vec![])] {
        let mut buffer = Buffer::new();
        buffer.extend_from_slice(&[1, 2, 3]).unwrap();
        buffer.drop_front(count);
        assert_eq!(buffer.as_slice(), rest);
        buffer.push(4).unwrap();
        assert_eq!(buffer.as_slice().last(), Some(&4));
    }
}

#[test]
fn one_item_at_a_time() {
    let count = if cfg!(miri) { 30_000 } else { 3_000_000 };
    let mut buffer = Buffer::new();
    for item in 0..count {
        buffer.push(i64::from(item)).unwrap();
    }
    assert!(buffer.as_slice().iter().copied().eq(0..i64::from(count)));
}

#[test]
fn too_many_items_are_a_value() {
    for count in [usize::MAX, usize::MAX / 8 + 1, usize::MAX / 16, 1 << 47] {
        assert!(Buffer::<f64>::with_capacity(count).is_err());
        let mut buffer = Buffer::new();
        buffer.extend_from_slice(&[1.5, 2.5]).unwrap();
        assert!(buffer.reserve(count).is_err());
        assert_eq!(buffer.as_slice(), [1.5, 2.5]);
        buffer.push(3.5).unwrap();
        assert_eq!(buffer.as_slice(), [1.5, 2.5, 3.5]);
    }
    let overflow = Buffer::<i32>::with_capacity(usize::MAX).unwrap_err();
    assert_eq!(overflow, OutOfMemory { bytes: usize::MAX });
}

#[test]
fn a_block_outlives_its_buffer_in_another_thread() {
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(&[7_u16; 50_000]).unwrap();
    let (block, len) = buffer.into_block();
    let sum = std::thread::spawn(move || {
        // SAFETY: the block holds `len` items.
        let items = unsafe { slice::from_raw_parts(block.start().cast::<u16>().as_ptr(), len) };
        items.iter().map(|&item| u64::from(item)).sum::<u64>()
    });
    assert_eq!(sum.join().unwrap(), 350_000);
}

#[derive(Debug, Clone)]
enum Step {
    Push(i32),
    Extend(Vec<i32>),
    Reserve(usize),
    Truncate(usize),
    Spare(usize),
    Negate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let most: usize = if cfg!(miri) { 2_000 } else { 200_000 };
    let step = prop_oneof![
        4 => any::<i32>().prop_map(Step::Push),
        2 => prop::collection::vec(any::<i32>(), 0..50_usize).prop_map(Step::Extend),
        2 => (any::<i32>(), 0..most).prop_map(|(item, len)| Step::Extend(vec![item; len])),
        1 => (0..2 * most).prop_map(Step::Reserve),
        1 => (0..2 * most).prop_map(Step::Truncate),
        2 => (0..500_usize).prop_map(Step::Spare),
        1 => Just(Step::Negate),
    ];
    prop::collection::vec(step, 0..40_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 5 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_vec_does(steps in steps()) {
        let (mut buffer, mut vec) = (Buffer::new(), Vec::new());
        for step in steps {
            match step {
                Step::Push(item) => {
                    buffer.push(item).unwrap();
                    vec.push(item);
                }
                Step::Extend(items) => {
                    buffer.extend_from_slice(&items).unwrap();
                    vec.extend_from_slice(&items);
                }
                Step::Reserve(additional) => {
                    buffer.reserve(additional).unwrap();
                    prop_assert!(buffer.capacity - buffer.len() >= additional);
                }
                Step::Truncate(len) => {
                    buffer.len = buffer.len.min(len);
                    vec.truncate(len);
                }
                Step::Spare(most) => {
                    let spare = buffer.spare_capacity_mut();
                    let count = spare.len().min(most);
                    spare[..count].fill(MaybeUninit::new(-5));
                    let len = buffer.len() + count;
                    // SAFETY: the items were just written.
                    unsafe { buffer.set_len(len) };
                    vec.resize(len, -5);
                }
                Step::Negate => {
                    buffer.as_mut_slice().iter_mut().for_each(|item| *item = !*item);
                    vec.iter_mut().for_each(|item| *item = !*item);
                }
            }
            prop_assert_eq!(buffer.len(), vec.len());
            prop_assert_eq!(buffer.is_empty(), vec.is_empty());
        }
        prop_assert!(buffer.as_slice() == vec.as_slice());
        let (block, len) = buffer.into_block();
        // SAFETY: the block holds `len` items.
        let items = unsafe { slice::from_raw_parts(block.start().cast::<i32>().as_ptr(), len) };
        prop_assert!(items == vec.as_slice());
    }
}

#[test]
fn a_recycled_buffer_is_memory_that_fits_or_nothing() {
    const SIZE: usize = 37 << 20;
    assert!(Buffer::<u8>::recycled(0).is_none());
    assert!(Buffer::<u8>::recycled(usize::MAX).is_none());
    assert!(Buffer::<i64>::recycled(usize::MAX).is_none());
    drop(Buffer::<u8>::transient(SIZE, 0).unwrap());
    // Another test may have taken it meanwhile.
    if let Some(mut buffer) = Buffer::<u8>::recycled(SIZE) {
        assert!((SIZE..=SIZE / 3 * 4).contains(&buffer.capacity()));
        assert!(buffer.is_empty());
        buffer.extend_from_slice(b"abc").unwrap();
        assert_eq!(buffer.as_slice(), b"abc");
    }
}

#[test]
fn doubles_become_the_nearest_singles_in_place() {
    // On both sides of a step, and from the allocator as well as by the page.
    for count in [0, 1, 15, 16, 17, 33, 1_000, 8_191, 8_193, 100_003] {
        let mut wide = Buffer::<f64>::new();
        for i in 0..count {
            wide.push(-0.1 * i as f64 - 1e-9).unwrap();
        }
        let expected: Vec<f32> = wide.as_slice().iter().map(|&value| value as f32).collect();
        let start = wide.as_slice().as_ptr().addr();
        let narrow = wide.into_f32();
        assert_eq!(narrow.as_slice(), expected);
        if !cfg!(no_mremap) {
            assert_eq!(narrow.as_slice().as_ptr().addr(), start);
        }
    }
}

#[test]
fn the_pages_behind_singles_are_given_back() {
    let count = 1 << 20;
    let mut wide = Buffer::<f64>::with_capacity(count).unwrap();
    for i in 0..count {
        wide.push(i as f64).unwrap();
    }
    let mut narrow = wide.into_f32();
    assert_eq!(narrow.capacity(), count);
    // It grows again as any other does.
    narrow.push(0.5).unwrap();
    assert_eq!(narrow.as_slice()[count - 1..], [(count - 1) as f32, 0.5]);
}
