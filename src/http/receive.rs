//! Reading from a connection to the end of a buffer.
#![allow(unsafe_code)] // says how much was read

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::stream::Stream;
use crate::memory::Buffer;

/// Reads what has come, at most `most` bytes and as much as there is room for; 0 is the end of the connection.
pub(super) fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut Buffer<u8>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let spare = buffer.spare_capacity_mut();
    let most = most.min(spare.len());
    debug_assert!(most > 0);
    let mut room = ReadBuf::uninit(&mut spare[..most]);
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    let count = room.filled().len();
    let len = buffer.len() + count;
    // SAFETY: what is filled of the room is initialised, and it follows the items directly.
    unsafe { buffer.set_len(len) };
    Poll::Ready(Ok(count))
}

/// As [`poll_read`].
pub(super) async fn read(
    stream: &mut Stream,
    buffer: &mut Buffer<u8>,
    most: usize,
) -> io::Result<usize> {
    poll_fn(|cx| poll_read(stream, cx, buffer, most)).await
}
