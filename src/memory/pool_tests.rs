#![allow(unsafe_code)] // writes through the addresses of blocks, and forks

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::time::Instant;

use super::Fit::{Fitting, FittingOrNearly, Larger};
use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn pages(bytes: usize) -> Mapping {
    Mapping::new(bytes).unwrap()
}

fn pool(max_bytes: usize) -> SharedPool {
    let pool = SharedPool::new();
    pool.configure(max_bytes);
    pool
}

fn held(pool: &SharedPool) -> Vec<usize> {
    pool.lock(PATIENT)
        .unwrap()
        .held
        .iter()
        .map(|held| held.mapping.size())
        .collect()
}

#[test]
fn what_was_given_back_is_taken_again() {
    let pool = pool(MIB);
    let mapping = pages(256 * KIB);
    let start = mapping.start();
    pool.give_back(mapping);
    let taken = pool.take(256 * KIB, Fitting).unwrap();
    assert_eq!((taken.start(), taken.size()), (start, 256 * KIB));
    assert!(pool.take(256 * KIB, Fitting).is_none());
    let expected = Stats {
        held_bytes: 0,
        held_blocks: 0,
        max_bytes: MIB,
        reused: 1,
        allocated: 1,
    };
    assert_eq!(pool.stats(), expected);
}

#[test]
fn the_smallest_block_that_fits() {
    let pool = pool(16 * MIB);
    for kib in [1024, 128, 192, 96, 512, 160] {
        pool.give_back(pages(kib * KIB));
    }
    for (wanted, taken) in [
        (145, Some(160)),
        (145, Some(192)),
        (145, None),
        (97, Some(128)),
        (767, None),
        (768, Some(1024)),
    ] {
        let size = pool
            .take(wanted * KIB, Fitting)
            .map(|mapping| mapping.size() / KIB);
        assert_eq!(size, taken, "{wanted} KiB");
    }
    assert_eq!(held(&pool), [96 * KIB, 512 * KIB]);
}

#[test]
fn where_none_fits_the_largest_that_lacks_little_grows() {
    let pool = pool(16 * MIB);
    for kib in [64, 1100, 512, 480, 1600] {
        pool.give_back(pages(kib * KIB));
    }
    for (wanted, left) in [
        // A third more than 512 KiB is 682 and two thirds; one page beyond is too much to lack.
        (684, vec![64, 1100, 512, 480, 1600]),
        (680, vec![64, 1100, 480, 1600]),
        // What fits comes first, however little another one lacks.
        (1200, vec![64, 1100, 480]),
        (600, vec![64, 1100]),
    ] {
        let taken = pool.take(wanted * KIB, FittingOrNearly);
        assert_eq!(taken.is_some(), left.len() < 5, "{wanted} KiB");
        if let Some(mapping) = taken {
            assert!(mapping.size() >= wanted * KIB);
            mark(&mapping, 5);
        }
        let sizes: Vec<_> = held(&pool).iter().map(|size| size / KIB).collect();
        assert_eq!(sizes, left);
    }
    assert_eq!(pool.stats().held_bytes, 1164 * KIB);
    assert!(pool.take(600 * KIB, Fitting).is_none());
}

#[test]
fn what_comes_back_soon_takes_any_that_is_large_enough() {
    let pool = pool(16 * MIB);
    for mib in [3, 9, 2] {
        pool.give_back(pages(mib * MIB));
    }
    for (wanted, taken) in [(1, Some(2)), (4, Some(9)), (4, None), (2, Some(3))] {
        let size = pool
            .take(wanted * MIB, Larger)
            .map(|mapping| mapping.size() / MIB);
        assert_eq!(size, taken, "{wanted} MiB");
    }
}

/// A conversation whose answers grow by a hundredth with every turn, each held until the next one is there.
#[test]
fn a_job_that_grows_keeps_one_block_in_motion() {
    let pool = pool(64 * MIB);
    let (mut bytes, mut most) = (MIB, 0);
    for _ in 0..if cfg!(miri) { 20 } else { 150 } {
        let mapping = pool
            .take(bytes, FittingOrNearly)
            .unwrap_or_else(|| pages(bytes));
        mark(&mapping, 3);
        most = most.max(pool.stats().held_bytes + mapping.size());
        pool.give_back(mapping);
        bytes += bytes / 100;
    }
    assert_eq!(pool.stats().allocated, 1);
    assert!(most < bytes + 4096);
}

#[test]
fn a_third_more_and_no_more() {
    for bytes in [64 * KIB, 100_000, MIB, 3 * MIB + 1] {
        assert!(fits(bytes, bytes) && fits(bytes + bytes / 3, bytes));
        assert!(!fits(bytes - 1, bytes) && !fits(bytes + bytes / 3 + 1, bytes));
    }
    // A result and the block of a body of bare int32: base64 of it, and a little JSON.
    for bytes in [MIB, 3 * MIB + 1, 12 * MIB] {
        let body = bytes.div_ceil(3) * 4 + bytes / 100;
        assert!(!fits(body, bytes));
    }
    assert!(!fits(usize::MAX, 1) && !fits(1, usize::MAX));
}

#[test]
fn the_oldest_goes_first() {
    let pool = pool(MIB);
    for kib in [256, 320, 384] {
        pool.give_back(pages(kib * KIB));
    }
    assert_eq!(held(&pool), [256, 320, 384].map(|kib| kib * KIB));
    pool.give_back(pages(128 * KIB));
    assert_eq!(held(&pool), [320, 384, 128].map(|kib| kib * KIB));
    pool.give_back(pages(640 * KIB));
    assert_eq!(held(&pool), [128, 640].map(|kib| kib * KIB));
    let stats = pool.stats();
    assert_eq!((stats.held_bytes, stats.held_blocks), (768 * KIB, 2));
}

#[test]
fn of_equal_blocks_the_latest() {
    let pool = pool(MIB);
    let mappings = [(); 3].map(|()| pages(128 * KIB));
    let starts = mappings.each_ref().map(Mapping::start);
    mappings
        .into_iter()
        .for_each(|mapping| pool.give_back(mapping));
    let taken =
        [Fitting, FittingOrNearly, Larger].map(|choice| pool.take(128 * KIB, choice).unwrap());
    let taken = taken.each_ref().map(Mapping::start);
    assert_eq!(taken, [starts[2], starts[1], starts[0]]);
}

#[test]
fn what_many_have_not_wanted_for_long_goes() {
    let pool = pool(MIB);
    let begin = Instant::now();
    let requests = |count| (0..count).for_each(|_| assert!(pool.take(MIB, Fitting).is_none()));
    for kib in [64, 128, 192] {
        pool.give_back_at(pages(kib * KIB), begin);
    }
    // Many, but at once; and after a long pause, but few.
    requests(UNWANTED - 2);
    pool.give_back_at(pages(256 * KIB), begin + 60 * IDLE);
    assert_eq!(held(&pool).len(), 4);
    // What was wanted meanwhile begins anew.
    let wanted = pool.take(64 * KIB, Fitting).unwrap();
    pool.give_back_at(wanted, begin);
    requests(1);
    pool.give_back_at(pages(96 * KIB), begin + IDLE);
    assert_eq!(held(&pool), [128, 192, 256, 64, 96].map(|kib| kib * KIB));
    // One at a time.
    let later = begin + IDLE + Duration::from_secs(1);
    pool.give_back_at(pages(96 * KIB), later);
    assert_eq!(held(&pool), [192, 256, 64, 96, 96].map(|kib| kib * KIB));
    pool.give_back_at(pages(96 * KIB), later);
    pool.give_back_at(pages(96 * KIB), later);
    let left = [256, 64, 96, 96, 96, 96].map(|kib| kib * KIB);
    assert_eq!(held(&pool), left);
    let bytes: usize = left.iter().sum();
    assert_eq!(pool.stats().held_bytes, bytes);
    // A clock that another thread read earlier drives nothing out.
    requests(UNWANTED);
    pool.give_back_at(pages(160 * KIB), begin);
    assert_eq!(held(&pool)[..6], left);
}

#[test]
fn what_is_too_large_drives_nothing_out() {
    let pool = pool(MIB);
    pool.give_back(pages(MIB));
    pool.give_back(pages(MIB + 4 * KIB));
    assert_eq!(held(&pool), [MIB]);
}

#[test]
fn no_more_blocks_than_a_search_may_cost() {
    let pool = pool(usize::MAX);
    for _ in 0..MAX_BLOCKS + 3 {
        pool.give_back(pages(1));
    }
    assert_eq!(pool.stats().held_blocks, MAX_BLOCKS);
}

#[test]
fn off() {
    let pool = pool(0);
    pool.give_back(pages(64 * KIB));
    assert_eq!(
        pool.stats(),
        Stats {
            held_bytes: 0,
            held_blocks: 0,
            max_bytes: 0,
            reused: 0,
            allocated: 0
        }
    );
}

#[test]
fn a_lower_bound_holds_at_once() {
    let pool = pool(MIB);
    for kib in [128, 256, 384] {
        pool.give_back(pages(kib * KIB));
    }
    pool.configure(640 * KIB);
    assert_eq!(held(&pool), [256 * KIB, 384 * KIB]);
    pool.configure(639 * KIB);
    assert_eq!(held(&pool), [384 * KIB]);
    pool.configure(0);
    assert!(held(&pool).is_empty());
}

#[test]
fn trimming_returns_what_was_held() {
    let pool = pool(16 * MIB);
    assert_eq!(pool.trim(), 0);
    pool.give_back(pages(3 * MIB));
    pool.give_back(pages(100 * KIB));
    assert_eq!(pool.trim(), 3 * MIB + 100 * KIB);
    assert_eq!((pool.stats().held_bytes, pool.stats().held_blocks), (0, 0));
    assert!(pool.take(3 * MIB, Fitting).is_none());
}

#[test]
fn the_environment_bounds_it() {
    assert_eq!(max_bytes_from(None), Ok(256 * MIB));
    for (text, bytes) in [
        ("0", 0),
        ("1048576", MIB),
        ("007", 7),
        ("99999999999999999999999", usize::MAX),
    ] {
        assert_eq!(max_bytes_from(Some(text.into())), Ok(bytes), "{text}");
    }
    for text in [
        "", " ", "1 ", "-1", "+1", "1e9", "256MiB", "0x10", "\u{661}",
    ] {
        let error = max_bytes_from(Some(text.into())).unwrap_err();
        assert_eq!(
            error,
            format!("DYNAMO_TITO_POOL_MAX_BYTES={text} is not a number of bytes")
        );
    }
}

#[test]
fn a_lock_that_is_never_given_back_costs_a_moment() {
    let pool = pool(MIB);
    pool.give_back(pages(128 * KIB));
    let lock = pool.pool.lock().unwrap();
    assert!(pool.take(128 * KIB, Fitting).is_none());
    pool.give_back(pages(64 * KIB));
    assert_eq!(pool.trim(), 0);
    assert_eq!(pool.stats().held_blocks, 0);
    pool.configure(0);
    drop(lock);
    assert_eq!(held(&pool), [128 * KIB]);
}

#[test]
fn a_panic_under_the_lock_does_not_close_the_pool() {
    let pool = pool(MIB);
    let panicked = thread::scope(|scope| {
        let doomed = scope.spawn(|| {
            let _lock = pool.pool.lock();
            panic!("on purpose");
        });
        doomed.join().is_err()
    });
    assert!(panicked && pool.pool.is_poisoned());
    pool.give_back(pages(128 * KIB));
    assert!(pool.take(128 * KIB, Fitting).is_some());
}

/// Marks both ends of a block with the number of its owner.
fn mark(mapping: &Mapping, owner: u64) {
    let start = mapping.start().cast::<u64>();
    // SAFETY: the block is this thread's own, aligned, and longer than its two marks.
    unsafe {
        start.write(owner);
        start.byte_add(mapping.size() - 8).write(owner);
    }
}

fn is_marked(mapping: &Mapping, owner: u64) -> bool {
    let start = mapping.start().cast::<u64>();
    // SAFETY: as in `mark`, which wrote both words.
    unsafe { start.read() == owner && start.byte_add(mapping.size() - 8).read() == owner }
}

#[test]
fn eight_threads_never_share_a_block() {
    const THREADS: u64 = 8;
    let rounds = if cfg!(miri) { 20 } else { 3000 };
    let pool = pool(8 * MIB);
    let reused = AtomicUsize::new(0);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| mpsc::channel::<(Mapping, u64)>())
        .unzip();
    thread::scope(|scope| {
        for (thread, inbox) in (0..THREADS).zip(receivers) {
            let (pool, reused, senders) = (&pool, &reused, senders.clone());
            scope.spawn(move || {
                let mut state = thread + 1;
                let mut own: Vec<(Mapping, u64)> = Vec::new();
                for round in 0..rounds {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let bytes = 64 * KIB + (state >> 33) as usize % (512 * KIB);
                    let choice = [Fitting, FittingOrNearly, Larger][round as usize % 3];
                    let mapping = match pool.take(bytes, choice) {
                        Some(mapping) => {
                            reused.fetch_add(1, Ordering::Relaxed);
                            mapping
                        }
                        None => pages(bytes),
                    };
                    assert!(mapping.size() >= bytes);
                    let owner = thread << 32 | round;
                    mark(&mapping, owner);
                    own.push((mapping, owner));
                    own.extend(inbox.try_iter());
                    if own.len() > 6 {
                        let (mapping, owner) = own.swap_remove(state as usize % own.len());
                        assert!(is_marked(&mapping, owner), "another owner wrote here");
                        // Some blocks die in another thread than they were made in.
                        if round % 5 == 0 {
                            let _ = senders[(state >> 20) as usize % senders.len()]
                                .send((mapping, owner));
                        } else {
                            pool.give_back(mapping);
                        }
                    }
                    if round % 500 == 499 {
                        pool.trim();
                    }
                }
                for (mapping, owner) in own {
                    assert!(is_marked(&mapping, owner), "another owner wrote here");
                    pool.give_back(mapping);
                }
            });
        }
    });
    let stats = pool.stats();
    let sizes = held(&pool);
    assert!(stats.held_bytes <= 8 * MIB);
    assert_eq!(
        (stats.held_bytes, stats.held_blocks),
        (sizes.iter().sum(), sizes.len())
    );
    assert_eq!(stats.reused + stats.allocated, THREADS * rounds);
    assert_eq!(stats.reused, reused.into_inner() as u64);
    assert!(cfg!(miri) || stats.reused > 0);
    assert_eq!(pool.trim(), stats.held_bytes);
}

/// Runs `child` in a fork of this process and waits for it, but not for ever.
#[cfg(all(unix, not(miri)))]
fn fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child does what a forked Python does with this module, and leaves without running anything of its parent's.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // SAFETY: waits for a child of this process and writes to a local.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            0 => {
                // SAFETY: the number is the child's until it is waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // SAFETY: as above.
                unsafe { libc::waitpid(pid, &mut status, 0) };
                panic!("the child hangs");
            }
            found => {
                assert_eq!((found, status), (pid, 0), "the child failed");
                return;
            }
        }
    }
}

#[test]
#[cfg(all(unix, not(miri)))]
fn a_child_forked_while_the_lock_was_held_goes_on_without_the_pool() {
    let pool = pool(MIB);
    pool.give_back(pages(128 * KIB));
    let lock = pool.pool.lock().unwrap();
    fork(|| {
        for _ in 0..1000 {
            let mapping = pool
                .take(128 * KIB, Fitting)
                .unwrap_or_else(|| pages(128 * KIB));
            mark(&mapping, 7);
            pool.give_back(mapping);
        }
        let stats = pool.stats();
        pool.trim() == 0 && (stats.reused, stats.allocated) == (0, 1000)
    });
    drop(lock);
    assert!(pool.take(128 * KIB, Fitting).is_some());
}

#[test]
#[cfg(all(unix, not(miri)))]
fn children_forked_while_others_allocate() {
    use super::super::Buffer;
    use std::sync::atomic::AtomicBool;

    let work = |rounds: usize| {
        (0..rounds).all(|round| {
            let mut buffer = Buffer::with_capacity(64 * KIB + round % 7 * 100 * KIB).unwrap();
            buffer.extend_from_slice(&[round as u8; 70_000]).unwrap();
            buffer.as_slice().iter().all(|&byte| byte == round as u8)
        })
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(work(10));
                }
            });
        }
        for _ in 0..30 {
            fork(|| work(50));
        }
        done.store(true, Ordering::Relaxed);
    });
}
