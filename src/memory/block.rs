//! Owned bytes with an aligned start, from the allocator or from the pool.
#![allow(unsafe_code)] // the allocator's raw interface

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{self, NonNull};

use super::OutOfMemory;
use super::mapping::Mapping;
use super::pool::{self, Fit};

/// Start of every block: a cache line, which is also the widest vector.
pub(super) const ALIGNMENT: usize = 64;

/// From here on a block is whole pages and is recycled; below, the allocator is as fast as a pool could be.
pub(super) const MAPPED_FROM: usize = 64 << 10;

/// Up to here a growing block is copied into recycled pages, which costs half of what new pages do; beyond, its own pages
/// move to where there is room for more, and the new ones are huge.
const COPIED_BELOW: usize = 8 << 20;

/// A transient block of this size or more that grows moves into a recycled block of the expected size. Where no size is
/// expected, any larger recycled block serves: it returns to the pool soon.
const LARGER_FROM: usize = 1 << 20;

/// Moving pages takes no copy, so beyond this size room is made by the quarter.
const QUARTERS_FROM: usize = 8 << 20;

/// How long a block is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as the caller holds the array.
    Result,
    /// Until the body in it is decoded.
    Transient {
        /// Bytes that the whole body probably has; 0 where unknown.
        expected: usize,
    },
}

/// Owned, uninitialised bytes. Dropping it gives them back: to the pool if they came by the page, else to the allocator.
#[derive(Debug)]
pub struct Block {
    start: NonNull<u8>,
    size: usize,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Nowhere,
    Heap(Layout),
    Pages(Mapping),
}

// SAFETY: the bytes belong to this value alone, and both of their homes take them back from any thread.
unsafe impl Send for Block {}

// SAFETY: a shared reference only gives out the address and the size.
unsafe impl Sync for Block {}

impl Block {
    /// No bytes, and nothing allocated.
    pub(crate) const fn empty() -> Self {
        // SAFETY: ALIGNMENT is not zero.
        let start = unsafe { NonNull::new_unchecked(ptr::without_provenance_mut(ALIGNMENT)) };
        Self {
            start,
            size: 0,
            home: Home::Nowhere,
        }
    }

    /// At least `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        match bytes {
            0 => Ok(Self::empty()),
            1..MAPPED_FROM => Self::from_heap(bytes),
            _ => Ok(Self::from_pages(
                match pool::take(bytes, Fit::FittingOrNearly) {
                    Some(mapping) => mapping,
                    None => Mapping::new(bytes)?,
                },
            )),
        }
    }

    /// A recycled block that fits `bytes` bytes of a body, if the pool has one; small ones are not worth it.
    pub(crate) fn recycled(bytes: usize) -> Option<Self> {
        match bytes {
            LARGER_FROM.. => pool::take(bytes, Fit::Fitting).map(Self::from_pages),
            _ => None,
        }
    }

    /// Grows to at least `bytes` bytes and keeps the first `used` of them; the start may move. The growth depends on the
    /// current and the expected size: up to twice the current size, or the expected size.
    pub(crate) fn grow(
        &mut self,
        bytes: usize,
        used: usize,
        lifetime: Lifetime,
    ) -> Result<(), OutOfMemory> {
        assert!(used <= self.size, "{used} bytes used of {}", self.size);
        if bytes <= self.size {
            return Ok(());
        }
        let doubled = bytes.max(self.size.saturating_mul(2));
        let quarter_more = bytes.max(self.size.saturating_add(self.size / 4));
        let bigger = match &mut self.home {
            Home::Pages(mapping) => {
                let room = match self.size {
                    QUARTERS_FROM.. => quarter_more,
                    _ => doubled,
                };
                let (recycled, room) = match lifetime {
                    Lifetime::Transient { expected: 0 } if self.size >= LARGER_FROM => {
                        (pool::take(doubled, Fit::Larger), room)
                    }
                    Lifetime::Transient { expected } if self.size >= LARGER_FROM => {
                        match expected {
                            // A little more than the last one: its own pages go on.
                            _ if bytes > expected => (None, quarter_more),
                            _ => (pool::take(expected, Fit::Fitting), expected),
                        }
                    }
                    _ if doubled < COPIED_BELOW => (pool::take(doubled, Fit::Fitting), room),
                    _ => (None, room),
                };
                let Some(recycled) = recycled else {
                    // Room beyond `bytes` is optional.
                    mapping.grow(room).or_else(|_| mapping.grow(bytes))?;
                    self.start = mapping.start();
                    self.size = mapping.size();
                    return Ok(());
                };
                Self::from_pages(recycled)
            }
            Home::Nowhere | Home::Heap(_) => Self::new(doubled)?,
        };
        // SAFETY: both blocks hold at least `used` bytes, and two owned blocks do not overlap.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), bigger.start.as_ptr(), used) };
        *self = bigger;
        Ok(())
    }

    /// Gives pages behind the first `bytes` bytes back to the system; what came from the allocator stays as it is.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if let Home::Pages(mapping) = &mut self.home {
            mapping.shrink(bytes.max(MAPPED_FROM));
            self.start = mapping.start();
            self.size = mapping.size();
        }
    }

    /// The first byte; aligned to a cache line, dangling if the size is zero.
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes that may be used, which can be more than were asked for.
    pub const fn size(&self) -> usize {
        self.size
    }

    fn from_heap(bytes: usize) -> Result<Self, OutOfMemory> {
        let layout = Layout::from_size_align(bytes.next_multiple_of(ALIGNMENT), ALIGNMENT)
            .map_err(|_| OutOfMemory { bytes })?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or(OutOfMemory { bytes })?;
        Ok(Self {
            start,
            size: layout.size(),
            home: Home::Heap(layout),
        })
    }

    fn from_pages(mapping: Mapping) -> Self {
        Self {
            start: mapping.start(),
            size: mapping.size(),
            home: Home::Pages(mapping),
        }
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::empty()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.home, Home::Nowhere) {
            Home::Nowhere => {}
            // SAFETY: `start` came from the allocator with this layout, and is given back once.
            Home::Heap(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            Home::Pages(mapping) => pool::give_back(mapping),
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
