//! Memory for results: blocks that numpy can own, typed buffers that grow in them, and a bounded pool that recycles them.
//!
//! A page that the kernel hands out for the first time costs more than everything the decoder does to it, so blocks of
//! 64 KiB and more come back to the pool when the array that owned them dies, with their pages in place.

mod block;
mod buffer;
mod pool;

// Elsewhere the same blocks come from the allocator; so they do under miri, which has no mremap, and for a race detector,
// which does not see that pages move.
#[cfg(all(target_os = "linux", not(any(miri, no_mremap))))]
#[path = "mapping_linux.rs"]
mod mapping;
#[cfg(not(all(target_os = "linux", not(any(miri, no_mremap)))))]
#[path = "mapping_alloc.rs"]
mod mapping;

pub use block::Block;
pub(crate) use block::Lifetime;
pub use buffer::{Buffer, Plain};
pub use pool::{Stats, configure, environment_error, stats, trim};

use std::fmt;

use crate::error::{Class, Error};

/// Memory that could not be had; becomes a `MemoryError`, never an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that were requested; `usize::MAX` where the size itself overflowed.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes == usize::MAX {
            return f.write_str("more memory asked for than can be addressed");
        }
        write!(f, "no memory for {} bytes", self.bytes)
    }
}

impl std::error::Error for OutOfMemory {}

impl From<OutOfMemory> for Error {
    fn from(out: OutOfMemory) -> Self {
        Self::new(Class::Memory, "memory", "", None, out.to_string())
    }
}
