//! The same interface as `mapping_linux.rs` over the allocator, for other systems, for miri and for a race detector.
#![allow(unsafe_code)] // the allocator's raw interface

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::ptr::NonNull;

use super::OutOfMemory;

const PAGE: usize = 4096;

/// An owned, page-aligned range; freed on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the range belongs to this value alone, and allocators serve every thread.
unsafe impl Send for Mapping {}

// SAFETY: a shared reference only gives out the address and the size.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `bytes` bytes, uninitialised.
    pub(super) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let layout = layout(bytes)?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or(OutOfMemory {
            bytes: layout.size(),
        })?;
        Ok(Self {
            start,
            size: layout.size(),
        })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Grows to at least `bytes` bytes and keeps what is held.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let (old, new) = (layout(self.size)?, layout(bytes)?);
        if new.size() <= old.size() {
            return Ok(());
        }
        // SAFETY: `start` came from this allocator with the layout `old`; the new size is not zero and fits a layout.
        let moved = unsafe { realloc(self.start.as_ptr(), old, new.size()) };
        self.start = NonNull::new(moved).ok_or(OutOfMemory { bytes: new.size() })?;
        self.size = new.size();
        Ok(())
    }

    /// Keeps the first `bytes` bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let (Ok(old), Ok(new)) = (layout(self.size), layout(bytes)) else {
            return;
        };
        if new.size() >= old.size() {
            return;
        }
        // SAFETY: as in `grow`.
        let moved = unsafe { realloc(self.start.as_ptr(), old, new.size()) };
        // Where the allocator refuses, the range stays as it is.
        if let Some(start) = NonNull::new(moved) {
            self.start = start;
            self.size = new.size();
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Ok(layout) = layout(self.size) {
            // SAFETY: `start` came from this allocator with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

fn layout(bytes: usize) -> Result<Layout, OutOfMemory> {
    bytes
        .max(1)
        .checked_next_multiple_of(PAGE)
        .and_then(|size| Layout::from_size_align(size, PAGE).ok())
        .ok_or(OutOfMemory { bytes: usize::MAX })
}
