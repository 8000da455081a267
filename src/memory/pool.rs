//! A bounded pool of pages that results gave back, least recently returned first to go.
//!
//! What many requests have not wanted for a while goes too, whenever something else comes back: a burst leaves nothing behind
//! for good, and the sizes of one hour do not add up with those of the next. It goes block by block, so that work which
//! begins again after a pause finds most of its own. Of equal blocks the one returned last is taken first, so that those
//! that are not needed can be told.
//!
//! One mutex guards it, and every wait for it is bounded. A thread of the parent may hold it at the moment of a fork; in the
//! child that thread does not exist, and the mutex stays locked for ever. A caller that does not get the lock works without
//! the pool: it maps new pages, and unmaps at once. The lock is held for a search and a move of a few
//! words; system calls are made after it is released.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::mapping::Mapping;

/// Bytes that the pool holds at most, unless configured.
const DEFAULT_MAX_BYTES: usize = 256 << 20;

/// The same from the environment: a number of bytes, 0 for no pool.
const MAX_BYTES_VARIABLE: &str = "DYNAMO_TITO_POOL_MAX_BYTES";

/// Blocks that the pool holds at most: what one search may cost.
const MAX_BLOCKS: usize = 1024;

/// How long a block is held at least, wanted or not: what only some answers need is needed again within it. New pages for
/// it cost milliseconds: nothing, so seldom.
const IDLE: Duration = Duration::from_secs(30);

/// How many requests have to do without a block before it goes: many times those that one answer makes, so that what only
/// some of the answers need stays.
const UNWANTED: u64 = 128;

/// What the pool holds and what it has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Bytes in the pool now.
    pub held_bytes: usize,
    /// Blocks in the pool now.
    pub held_blocks: usize,
    /// The bound on `held_bytes`; 0 is off.
    pub max_bytes: usize,
    /// Requests that the pool served.
    pub reused: u64,
    /// Requests that new pages served.
    pub allocated: u64,
}

static POOL: SharedPool = SharedPool::new();

/// Gives back to the system what the pool holds; returns how many bytes that was.
pub fn trim() -> usize {
    POOL.trim()
}

/// Sets how many bytes the pool may hold; 0 turns it off. What is too much goes at once.
pub fn configure(max_bytes: usize) {
    POOL.configure(max_bytes);
}

/// What the pool holds and what it has done.
pub fn stats() -> Stats {
    POOL.stats()
}

/// What is wrong with the environment's bound, in words, if anything is; the default is used then.
pub fn environment_error() -> Option<String> {
    max_bytes_from(env::var_os(MAX_BYTES_VARIABLE)).err()
}

/// Pages for `bytes` bytes, if the pool has any that suit.
pub(super) fn take(bytes: usize, fit: Fit) -> Option<Mapping> {
    POOL.take(bytes, fit)
}

/// Takes pages back, to keep or to unmap.
pub(super) fn give_back(mapping: Mapping) {
    POOL.give_back(mapping);
}

/// Which of the held blocks serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The smallest block that is large enough and at most a third larger.
    Fitting,
    /// As `Fitting`, else the largest block that lacks at most a quarter. It grows by the rest, so a conversation whose
    /// responses grow from turn to turn keeps one block.
    FittingOrNearly,
    /// The smallest block that is large enough, without an upper bound: for memory that returns soon.
    Larger,
}

struct SharedPool {
    pool: Mutex<Pool>,
    reused: AtomicU64,
    allocated: AtomicU64,
}

struct Held {
    mapping: Mapping,
    since: Instant,
    /// [`Pool::requests`] at that time.
    requests: u64,
}

struct Pool {
    /// Oldest in front.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Served or not.
    requests: u64,
    /// `None` until the environment has been asked.
    max_bytes: Option<usize>,
}

impl SharedPool {
    const fn new() -> Self {
        let pool = Pool {
            held: VecDeque::new(),
            held_bytes: 0,
            requests: 0,
            max_bytes: None,
        };
        Self {
            pool: Mutex::new(pool),
            reused: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
        }
    }

    fn trim(&self) -> usize {
        let Some(mut pool) = self.lock(PATIENT) else {
            return 0;
        };
        let held = std::mem::take(&mut pool.held);
        let bytes = std::mem::take(&mut pool.held_bytes);
        drop(pool);
        drop(held);
        bytes
    }

    fn configure(&self, max_bytes: usize) {
        let Some(mut pool) = self.lock(PATIENT) else {
            return;
        };
        pool.max_bytes = Some(max_bytes);
        drop(pool);
        while self
            .lock(PATIENT)
            .and_then(|mut pool| pool.evict(0))
            .is_some()
        {}
    }

    fn stats(&self) -> Stats {
        let (held_bytes, held_blocks, max_bytes) = match self.lock(PATIENT) {
            Some(mut pool) => (pool.held_bytes, pool.held.len(), pool.max_bytes()),
            None => (0, 0, 0),
        };
        let [reused, allocated] =
            [&self.reused, &self.allocated].map(|count| count.load(Ordering::Relaxed));
        Stats {
            held_bytes,
            held_blocks,
            max_bytes,
            reused,
            allocated,
        }
    }

    fn take(&self, bytes: usize, fit: Fit) -> Option<Mapping> {
        let mut taken = self
            .lock(HURRIED)
            .and_then(|mut pool| pool.take(bytes, fit));
        if let Some(mapping) = &mut taken
            && mapping.grow(bytes).is_err()
        {
            taken = None;
        }
        let count = if taken.is_some() {
            &self.reused
        } else {
            &self.allocated
        };
        count.fetch_add(1, Ordering::Relaxed);
        taken
    }

    fn give_back(&self, mapping: Mapping) {
        self.give_back_at(mapping, Instant::now());
    }

    fn give_back_at(&self, mapping: Mapping, now: Instant) {
        let unwanted = self.lock(HURRIED).and_then(|mut pool| pool.unwanted(now));
        drop(unwanted);
        while let Some(mut pool) = self.lock(HURRIED) {
            let Some(oldest) = pool.evict(mapping.size()) else {
                let refused = pool.put(mapping, now);
                drop(pool);
                drop(refused);
                return;
            };
            drop(pool);
            drop(oldest);
        }
    }

    fn lock(&self, patience: Patience) -> Option<MutexGuard<'_, Pool>> {
        for _ in 0..patience.turns {
            match self.pool.try_lock() {
                Ok(pool) => return Some(pool),
                // Nothing here panics half way through a change.
                Err(TryLockError::Poisoned(pool)) => return Some(pool.into_inner()),
                Err(TryLockError::WouldBlock) => match patience.pause {
                    Some(pause) => thread::sleep(pause),
                    None => std::hint::spin_loop(),
                },
            }
        }
        None
    }
}

/// How long to try for the lock.
#[derive(Clone, Copy)]
struct Patience {
    turns: u32,
    pause: Option<Duration>,
}

/// For the decoder: a few microseconds, longer than the lock is held.
const HURRIED: Patience = Patience {
    turns: 100,
    pause: None,
};

/// For what a user asks for once: a tenth of a second, longer than a thread that holds the lock is kept from running.
const PATIENT: Patience = Patience {
    turns: 1000,
    pause: Some(Duration::from_micros(100)),
};

impl Pool {
    fn max_bytes(&mut self) -> usize {
        *self.max_bytes.get_or_insert_with(|| {
            max_bytes_from(env::var_os(MAX_BYTES_VARIABLE)).unwrap_or(DEFAULT_MAX_BYTES)
        })
    }

    fn take(&mut self, bytes: usize, fit: Fit) -> Option<Mapping> {
        self.requests += 1;
        // Latest first, so that it is the first of its size.
        let sizes = || {
            let sizes = self.held.iter().map(|held| held.mapping.size());
            sizes.enumerate().rev()
        };
        let smallest = |suits: fn(usize, usize) -> bool| {
            sizes()
                .filter(|&(_, size)| suits(size, bytes))
                .min_by_key(|&(_, size)| size)
        };
        let (index, _) = match fit {
            Fit::Larger => smallest(|size, bytes| size >= bytes),
            Fit::Fitting => smallest(fits),
            Fit::FittingOrNearly => smallest(fits).or_else(|| {
                sizes()
                    .filter(|&(_, size)| fits(bytes, size))
                    .max_by_key(|&(_, size)| size)
            }),
        }?;
        let Held { mapping, .. } = self.held.remove(index)?;
        self.held_bytes -= mapping.size();
        Some(mapping)
    }

    /// The oldest block, if many requests have not wanted it for long.
    fn unwanted(&mut self, now: Instant) -> Option<Mapping> {
        let oldest = self.held.front()?;
        let idle = now.saturating_duration_since(oldest.since);
        let unwanted = self.requests - oldest.requests >= UNWANTED && idle > IDLE;
        if unwanted { self.pop() } else { None }
    }

    /// The oldest block, if it must go before `bytes` more can be held.
    fn evict(&mut self, bytes: usize) -> Option<Mapping> {
        let max_bytes = self.max_bytes();
        // What can never be held drives nothing out.
        let over = bytes <= max_bytes && self.held_bytes > max_bytes - bytes;
        if over || self.held.len() >= MAX_BLOCKS {
            self.pop()
        } else {
            None
        }
    }

    fn pop(&mut self) -> Option<Mapping> {
        let Held { mapping, .. } = self.held.pop_front()?;
        self.held_bytes -= mapping.size();
        Some(mapping)
    }

    /// Keeps the block, or hands it back when there is no room for it.
    fn put(&mut self, mapping: Mapping, now: Instant) -> Option<Mapping> {
        let room = self.max_bytes().saturating_sub(self.held_bytes);
        if mapping.size() > room || self.held.try_reserve(1).is_err() {
            return Some(mapping);
        }
        self.held_bytes += mapping.size();
        self.held.push_back(Held {
            mapping,
            since: now,
            requests: self.requests,
        });
        None
    }
}

/// A result may sit in a block that is larger by a third. A body of bare int32 in base64 is larger than its result by more
/// than that: so the result never takes the block that the next such body wants, and how many there are of each does not
/// hang on who came first. With sizes spread as those of one job's responses are (log-normal, sigma 0.3 to 0.6, 4 or 16
/// held at a time), a simulation had 98 to 99.5 of 100 requests served, and half a request more with blocks half as large
/// again.
fn fits(size: usize, bytes: usize) -> bool {
    size >= bytes && size - bytes <= bytes / 3
}

fn max_bytes_from(value: Option<OsString>) -> Result<usize, String> {
    let Some(value) = value else {
        return Ok(DEFAULT_MAX_BYTES);
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "{MAX_BYTES_VARIABLE}={} is not a number of bytes",
            value.display()
        ));
    }
    // More digits than an address has mean: no bound.
    Ok(text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
