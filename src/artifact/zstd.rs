//! One zstd frame of a known size, into memory that was asked for once.
#![allow(unsafe_code)] // zstd writes into memory that is not initialised

use zstd_safe::{DCtx, WriteBuf, find_frame_compressed_size, get_frame_content_size};

use crate::error::{Class, Error, Result};
use crate::memory::{Buffer, OutOfMemory};

/// How a frame begins.
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A frame at byte `at` of an object.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What it says that it holds, in bytes.
    pub(super) content: u64,
}

impl<'a> Frame<'a> {
    /// Reads the header of the only frame of `bytes`.
    pub(super) fn read(bytes: &'a [u8], at: usize) -> Result<Self> {
        if !bytes.starts_with(&MAGIC) {
            return Err(refused(at, "no zstd frame begins here"));
        }
        let Ok(Some(content)) = get_frame_content_size(bytes) else {
            return Err(refused(at, "a zstd frame that does not say what it holds"));
        };
        let Ok(len) = find_frame_compressed_size(bytes) else {
            return Err(refused(at, "the zstd frame is cut short or broken"));
        };
        if len < bytes.len() {
            let message = "something follows the zstd frame";
            return Err(Error::new(
                Class::Malformed,
                "trailing_data",
                "",
                at + len,
                message,
            ));
        }
        Ok(Self { bytes, at, content })
    }

    /// What it holds. The memory is that of [`content`](Self::content), which the caller has looked at.
    pub(super) fn decompress(&self) -> Result<Buffer<u8>> {
        let overflow = OutOfMemory { bytes: usize::MAX };
        let size = usize::try_from(self.content).map_err(|_| overflow)?;
        let mut content = Buffer::transient(size, size)?;
        let mut context = DCtx::try_create().ok_or(OutOfMemory { bytes: 1 << 17 })?;
        let written = context.decompress(&mut Room(&mut content, size), self.bytes);
        if written != Ok(size) {
            return Err(refused(self.at, "the zstd frame is broken"));
        }
        Ok(content)
    }
}

/// The first bytes of a buffer's room.
struct Room<'b>(&'b mut Buffer<u8>, usize);

// SAFETY: pointer and capacity are those of the buffer's room, which is at least as large as was reserved.
unsafe impl WriteBuf for Room<'_> {
    fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn capacity(&self) -> usize {
        self.1
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    unsafe fn filled_until(&mut self, n: usize) {
        // SAFETY: the caller has written the first `n` bytes, which are within the capacity.
        unsafe { self.0.set_len(n) }
    }
}

#[cold]
fn refused(at: usize, message: &'static str) -> Error {
    Error::new(Class::Malformed, "zstd", "", at, message)
}
