//! The end of a body, lent to whoever receives it.
#![allow(unsafe_code)] // the buffer protocol, and the length of what others have written

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::arguments;
use super::body::Body;
use super::view::{WRITABLE, fill};
use crate::memory::Buffer;

/// Room at the end of a ``Body``: a writable buffer of ``len(room)`` bytes, for ``recv_into`` and the like.
///
/// Bytes received here are copied nowhere. ``filled`` gives the room back to its body; a room that is dropped without it
/// takes the content of the body along, which then stays unusable. Safe to share between threads.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct Room {
    body: Py<Body>,
    /// Bytes that may be written.
    size: usize,
    state: Mutex<State>,
}

struct State {
    /// None once it was given back.
    buffer: Option<Buffer<u8>>,
    /// Exports of the buffer protocol that were not released yet.
    views: usize,
}

const GIVEN_BACK: &str = "the room was given back to its body";

impl Room {
    /// Of a buffer with room for `size` more bytes.
    pub(super) fn new(body: Py<Body>, buffer: Buffer<u8>, size: usize) -> Self {
        let buffer = Some(buffer);
        Self {
            body,
            size,
            state: Mutex::new(State { buffer, views: 0 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Room {
    /// Ends the loan: the first ``count`` bytes are content of the body from now on.
    ///
    /// Raises ValueError for a second time or for more than ``len(room)``, BufferError while a view of the room is alive.
    fn filled(&self, count: &Bound<'_, PyAny>) -> PyResult<()> {
        let count = arguments::count("count", count)? as usize;
        if count > self.size {
            return Err(PyValueError::new_err(format!(
                "count must be at most {}, the size of the room, not {count}",
                self.size
            )));
        }
        let mut state = self.lock();
        if state.views > 0 {
            let said = format!("{} views of the room are alive: release them", state.views);
            return Err(PyBufferError::new_err(said));
        }
        let taken = state.buffer.take();
        let mut buffer = taken.ok_or_else(|| PyValueError::new_err(GIVEN_BACK))?;
        // SAFETY: there is room for `size >= count` more, which came from the system or from an earlier use of the block:
        // bytes, whoever wrote them. No view is left to write to them from now on.
        unsafe { buffer.set_len(buffer.len() + count) };
        self.body.get().restore(buffer);
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.size
    }

    fn __repr__(&self) -> String {
        format!("<Room: {} bytes>", self.size)
    }

    /// A writable view of the room.
    ///
    /// # Safety
    /// The interpreter passes a valid `view`.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let room = slf.get();
        let mut state = room.lock();
        let buffer = state.buffer.as_mut();
        let buffer = buffer.ok_or_else(|| PyBufferError::new_err(GIVEN_BACK))?;
        let start = buffer.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes stay in place, and nothing of ours reads or writes them, until the last view was released:
        // `filled` checks that.
        unsafe { fill(view, slf.as_any(), start, room.size, WRITABLE, flags)? };
        state.views += 1;
        Ok(())
    }

    /// The end of a view.
    ///
    /// # Safety
    /// The interpreter calls it once for each view.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.lock().views -= 1;
    }
}
