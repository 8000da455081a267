//! Anonymous mappings: whole pages, huge ones where they pay, grown by moving page tables instead of bytes.
#![allow(unsafe_code)] // system calls

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{
    MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MREMAP_FIXED,
    MREMAP_MAYMOVE, PROT_NONE, PROT_READ, PROT_WRITE, c_int, c_void,
};

use super::OutOfMemory;

/// Size and alignment of a huge page. Where they are larger (64 KiB base pages on aarch64) the kernel ignores the advice.
const HUGE: usize = 2 << 20;

/// From here on a growing mapping asks for huge pages: it may never fill the last one, which is then at most a quarter of
/// what it costs.
const GROWN_HUGE: usize = 8 << 20;

/// An owned range of whole pages; unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the range belongs to this value alone, and no system call here cares which thread makes it.
unsafe impl Send for Mapping {}

// SAFETY: a shared reference only gives out the address and the size.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `bytes` bytes of zeros, in whole pages, 2 MiB-aligned from 2 MiB on.
    pub(super) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let size = whole_pages(bytes)?;
        let protection = PROT_READ | PROT_WRITE;
        if size < HUGE {
            return reserve(size, protection, 0);
        }
        let mapping = reserve_aligned(size, protection, 0)?;
        mapping.advise_huge();
        Ok(mapping)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Grows to at least `bytes` bytes; the pages move with what they hold.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let size = whole_pages(bytes)?;
        if size <= self.size {
            return Ok(());
        }
        let huge = size >= GROWN_HUGE;
        if huge && !self.start.as_ptr().addr().is_multiple_of(HUGE) {
            self.move_aligned(size)?;
        } else {
            // SAFETY: the range is ours; without MREMAP_MAYMOVE it keeps its address.
            let same = unsafe { libc::mremap(self.start.as_ptr().cast(), self.size, size, 0) };
            if same != MAP_FAILED {
                self.size = size;
            } else if huge {
                self.move_aligned(size)?;
            } else {
                // SAFETY: the range is ours, and `&mut self` excludes other references into it.
                let moved = unsafe {
                    libc::mremap(self.start.as_ptr().cast(), self.size, size, MREMAP_MAYMOVE)
                };
                self.start = mapped(moved, size)?;
                self.size = size;
            }
        }
        if huge {
            self.advise_huge();
        }
        Ok(())
    }

    /// Keeps the pages of the first `bytes` bytes, where they are.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let Ok(size) = whole_pages(bytes) else { return };
        if size < self.size {
            // SAFETY: `size` is less than the size of the range.
            let end = unsafe { self.start.add(size) };
            unmap(end.as_ptr(), self.size - size);
            self.size = size;
        }
    }

    /// Grows at a new address that suits huge pages.
    fn move_aligned(&mut self, size: usize) -> Result<(), OutOfMemory> {
        let target = reserve_aligned(size, PROT_NONE, MAP_NORESERVE)?;
        // SAFETY: both ranges are ours and do not overlap, and `&mut self` excludes other references into them.
        let moved = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                self.size,
                size,
                MREMAP_MAYMOVE | MREMAP_FIXED,
                target.start.as_ptr().cast::<c_void>(),
            )
        };
        // The call takes the target's place. Where it fails it may have unmapped the target first, and another thread may
        // live there by now, so the reservation is not unmapped again.
        std::mem::forget(target);
        self.start = mapped(moved, size)?;
        self.size = size;
        Ok(())
    }

    /// The kernel puts a huge page only where all of it lies inside the range, so the tail stays in small pages and the
    /// block never costs more than its size. A kernel without huge pages refuses the advice, and nothing is lost.
    fn advise_huge(&self) {
        // SAFETY: the range is ours, and the advice does not change what it holds.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.size, MADV_HUGEPAGE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.start.as_ptr(), self.size);
    }
}

fn whole_pages(bytes: usize) -> Result<usize, OutOfMemory> {
    bytes
        .max(1)
        .checked_next_multiple_of(page_size())
        .ok_or(OutOfMemory { bytes: usize::MAX })
}

/// Asked once; a race asks twice and gets the same answer.
fn page_size() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: no arguments but a constant.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let page = usize::try_from(page)
                .ok()
                .filter(|page| page.is_power_of_two())
                .unwrap_or(4096);
            PAGE.store(page, Ordering::Relaxed);
            page
        }
        page => page,
    }
}

fn mapped(address: *mut c_void, size: usize) -> Result<NonNull<u8>, OutOfMemory> {
    if address == MAP_FAILED {
        return Err(OutOfMemory { bytes: size });
    }
    NonNull::new(address.cast()).ok_or(OutOfMemory { bytes: size })
}

fn reserve(size: usize, protection: c_int, flags: c_int) -> Result<Mapping, OutOfMemory> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            protection,
            MAP_PRIVATE | MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    Ok(Mapping {
        start: mapped(address, size)?,
        size,
    })
}

/// A range that begins at a huge page's boundary: reserved with room to spare, which is given back at once.
fn reserve_aligned(size: usize, protection: c_int, flags: c_int) -> Result<Mapping, OutOfMemory> {
    let room = size
        .checked_add(HUGE - page_size())
        .ok_or(OutOfMemory { bytes: usize::MAX })?;
    let whole = reserve(room, protection, flags)?;
    let before = whole.start.as_ptr().align_offset(HUGE);
    let after = room - size - before;
    // SAFETY: `before + size <= room`, so the address lies in the range.
    let start = unsafe { whole.start.add(before) };
    // SAFETY: as above.
    let end = unsafe { start.add(size) };
    std::mem::forget(whole);
    unmap(end.as_ptr(), after);
    if before > 0 {
        // SAFETY: `before` bytes in front of `start` are still ours.
        unmap(unsafe { start.sub(before) }.as_ptr(), before);
    }
    Ok(Mapping { start, size })
}

fn unmap(start: *mut u8, size: usize) {
    if size > 0 {
        // SAFETY: called once per range, by its owner. It can fail only by running out of mappings, and then leaks.
        unsafe { libc::munmap(start.cast(), size) };
    }
}
