//! A growable typed array in a block.
#![allow(unsafe_code)] // reads and writes through the block's address

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;

use super::block::ALIGNMENT;
use super::{Block, Lifetime, OutOfMemory};

/// Integers and floats: every bit pattern is a value, and nothing happens on drop.
pub trait Plain: sealed::Sealed + Copy + Send + Sync + fmt::Debug + 'static {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($t:ty)*) => {$(
        impl sealed::Sealed for $t {}
        impl Plain for $t {}
        const _: () = assert!(align_of::<$t>() <= ALIGNMENT && size_of::<$t>() > 0);
    )*};
}
plain!(u8 u16 i16 i32 i64 f32 f64);

/// What the first growth asks for, in bytes.
const FIRST_BYTES: usize = 1 << 10;

/// A growable array whose memory numpy can own. Like `Vec`, but every growth can fail, and none copies page by page.
pub struct Buffer<T> {
    start: NonNull<T>,
    len: usize,
    capacity: usize,
    block: Block,
    lifetime: Lifetime,
    items: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Empty, and nothing allocated.
    pub const fn new() -> Self {
        let block = Block::empty();
        Self {
            start: block.start().cast(),
            len: 0,
            capacity: 0,
            block,
            lifetime: Lifetime::Result,
            items: PhantomData,
        }
    }

    /// Room for `capacity` items.
    pub fn with_capacity(capacity: usize) -> Result<Self, OutOfMemory> {
        let mut buffer = Self::new();
        buffer.reserve(capacity)?;
        Ok(buffer)
    }

    /// Room for `capacity` items of something that is wanted only until it has been decoded; `expected` items are probably
    /// all, 0 is unknown.
    pub fn transient(capacity: usize, expected: usize) -> Result<Self, OutOfMemory> {
        let mut buffer = Self::new();
        let expected = expected.saturating_mul(size_of::<T>());
        buffer.lifetime = Lifetime::Transient { expected };
        buffer.reserve(capacity)?;
        Ok(buffer)
    }

    /// As [`Buffer::transient`] with room for `expected` items, in memory that was used before; None if there is none.
    pub fn recycled(expected: usize) -> Option<Self> {
        let bytes = expected.checked_mul(size_of::<T>())?;
        let block = Block::recycled(bytes)?;
        Some(Self {
            start: block.start().cast(),
            capacity: block.size() / size_of::<T>(),
            block,
            lifetime: Lifetime::Transient { expected: bytes },
            ..Self::new()
        })
    }

    /// Appends one item.
    #[inline(always)]
    pub fn push(&mut self, item: T) -> Result<(), OutOfMemory> {
        if self.len == self.capacity {
            self.grow(1)?;
        }
        // SAFETY: `len < capacity` here.
        unsafe { self.start.add(self.len).write(item) };
        self.len += 1;
        Ok(())
    }

    /// Appends a copy of every item.
    pub fn extend_from_slice(&mut self, items: &[T]) -> Result<(), OutOfMemory> {
        self.reserve(items.len())?;
        // SAFETY: there is room for the items, and a slice from elsewhere cannot overlap memory that `&mut self` owns.
        unsafe {
            self.start
                .add(self.len)
                .copy_from_nonoverlapping(NonNull::from(items).cast(), items.len())
        };
        self.len += items.len();
        Ok(())
    }

    /// Makes room for `additional` more items, exactly where nothing was allocated before.
    pub fn reserve(&mut self, additional: usize) -> Result<(), OutOfMemory> {
        if additional > self.capacity - self.len {
            self.grow(additional)?;
        }
        Ok(())
    }

    /// Items that are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Items that there is room for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether no item is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` items are initialised, and `&self` keeps them where they are.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The items, to change.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` is the only way to them.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The room past the items.
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<T>] {
        // SAFETY: `len <= capacity`, and uninitialised items may be lent as such.
        unsafe {
            slice::from_raw_parts_mut(
                self.start.add(self.len).cast().as_ptr(),
                self.capacity - self.len,
            )
        }
    }

    /// Says how many items are there.
    ///
    /// # Safety
    /// `len` is at most the capacity, and the first `len` items have been written.
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity);
        self.len = len;
    }

    /// Drops the first `count` items; the others move to the beginning.
    pub fn drop_front(&mut self, count: usize) {
        self.as_mut_slice().copy_within(count.., 0);
        self.len -= count;
    }

    /// Keeps the first `count` items, if there are more.
    pub fn truncate(&mut self, count: usize) {
        self.len = self.len.min(count);
    }

    /// The memory and how many items it holds, for numpy to own.
    pub fn into_block(self) -> (Block, usize) {
        (self.block, self.len)
    }

    /// Makes room for `additional` more items, and for further ones.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, additional: usize) -> Result<(), OutOfMemory> {
        let overflow = OutOfMemory { bytes: usize::MAX };
        let needed = self.len.checked_add(additional).ok_or(overflow)?;
        let needed = needed.checked_mul(size_of::<T>()).ok_or(overflow)?;
        let used = self.len * size_of::<T>();
        let bytes = match self.block.size() {
            0 if additional > 1 => needed,
            _ => needed.max(FIRST_BYTES),
        };
        self.block.grow(bytes, used, self.lifetime)?;
        self.start = self.block.start().cast();
        self.capacity = self.block.size() / size_of::<T>();
        Ok(())
    }
}

impl Buffer<f64> {
    /// The nearest float32 of each item, in the same memory. The pages behind them are given back to the system.
    pub(crate) fn into_f32(mut self) -> Buffer<f32> {
        /// Converted at a time, in registers.
        const STEP: usize = 16;
        let wide = self.start.as_ptr();
        let narrow = wide.cast::<f32>();
        let mut held = [0.0_f32; STEP];
        let mut done = 0;
        while done < self.len {
            let count = STEP.min(self.len - done);
            // SAFETY: the items from `done` to `done + count` are initialised, and none of them is overwritten yet: the
            // float32 values so far end at byte `4 * done`.
            let items = unsafe { slice::from_raw_parts(wide.add(done), count) };
            for (value, item) in held.iter_mut().zip(items) {
                *value = *item as f32;
            }
            // SAFETY: the values end at byte `4 * (done + count)`, at most where the items that are read next begin.
            unsafe {
                narrow
                    .add(done)
                    .copy_from_nonoverlapping(held.as_ptr(), count)
            };
            done += count;
        }
        self.block.shrink(self.len * size_of::<f32>());
        Buffer {
            start: self.block.start().cast(),
            len: self.len,
            capacity: self.block.size() / size_of::<f32>(),
            block: self.block,
            lifetime: self.lifetime,
            items: PhantomData,
        }
    }
}

impl<T: Plain> Default for Buffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Plain> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

impl Buffer<i32> {
    /// The same numbers as int64, in the same block, which grows.
    pub(crate) fn widened(mut self) -> Result<Buffer<i64>, OutOfMemory> {
        self.reserve(self.len)?;
        let narrow = self.start.as_ptr();
        let wide = narrow.cast::<i64>();
        for i in (0..self.len).rev() {
            // SAFETY: there is room for `2 * len` items of four bytes, and a block is aligned for every type. Item `i` goes
            // to byte `8 * i`, which is not in front of the end of the items that are still to be read.
            unsafe { wide.add(i).write(narrow.add(i).read().into()) };
        }
        Ok(Buffer {
            start: self.start.cast(),
            len: self.len,
            capacity: self.capacity / 2,
            block: self.block,
            lifetime: self.lifetime,
            items: PhantomData,
        })
    }
}

// SAFETY: a buffer owns its block, and its items are plain values.
unsafe impl<T: Plain> Send for Buffer<T> {}

// SAFETY: a shared reference only reads plain values.
unsafe impl<T: Plain> Sync for Buffer<T> {}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
