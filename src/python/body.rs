//! The growable buffer that transports fill.
#![allow(unsafe_code)] // the buffer protocol, and a slice that freezing keeps in place

use std::ffi::c_int;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arguments::count;
use super::room::Room;
use super::view::{READ_ONLY, fill};
use crate::error::Error;
use crate::memory::Buffer;

/// A response body that grows as it arrives, and is decoded without a copy.
///
/// Decoding, exporting a buffer or ``tobytes`` freezes it: from then on ``append`` raises ValueError. Its memory comes from the
/// same pool as the results (``memory_stats``). Safe to share between threads.
///
/// While a ``Room`` of it is out, everything but ``close``, ``closed``, ``frozen`` and ``len`` raises ValueError; once it was
/// closed, for good.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct Body {
    state: Mutex<State>,
}

enum State {
    Growing(Buffer<u8>),
    /// The buffer is in a `Room`; so many bytes of it were there when it left.
    Lent(usize),
    Frozen(Arc<Buffer<u8>>),
    Closed,
}

const CLOSED: &str = "the body is closed: its content was given up";
const FROZEN: &str = "the body is frozen: it has been decoded or exported";
const LENT: &str = "the body is being written to: a room of it is out";

/// The bytes of a frozen body.
pub(crate) struct Frozen(Arc<Buffer<u8>>);

impl Frozen {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }
}

fn no_memory(py: Python<'_>, out: crate::memory::OutOfMemory) -> PyErr {
    super::errors::exception(py, &Error::from(out), b"")
}

impl Body {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves the state whole: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends growth.
    pub(super) fn freeze(&self) -> PyResult<Frozen> {
        let mut state = self.lock();
        let shared = match &mut *state {
            State::Growing(buffer) => Arc::new(std::mem::take(buffer)),
            State::Lent(_) => return Err(PyValueError::new_err(LENT)),
            State::Closed => return Err(PyValueError::new_err(CLOSED)),
            State::Frozen(shared) => return Ok(Frozen(Arc::clone(shared))),
        };
        *state = State::Frozen(Arc::clone(&shared));
        Ok(Frozen(shared))
    }

    /// Takes back what a room held; of a body that was closed meanwhile nobody wants it.
    pub(super) fn restore(&self, buffer: Buffer<u8>) {
        let mut state = self.lock();
        if matches!(*state, State::Lent(_)) {
            *state = State::Growing(buffer);
        }
    }
}

#[pymethods]
impl Body {
    /// Room for ``capacity`` bytes at first; it grows as needed. ``expected`` is how many it will probably hold, 0 if nobody
    /// knows: a body that has grown to a megabyte gets room for that many at once, and takes pages of that size from the pool.
    #[new]
    #[pyo3(signature = (capacity=None, /, *, expected=None), text_signature = "(capacity=0, /, *, expected=0)")]
    fn new(
        py: Python<'_>,
        capacity: Option<&Bound<'_, PyAny>>,
        expected: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let capacity = capacity.map_or(Ok(0), |capacity| count("capacity", capacity))?;
        let expected = expected.map_or(Ok(0), |expected| count("expected", expected))?;
        let buffer = Buffer::passing(capacity as usize, expected as usize)
            .map_err(|out| no_memory(py, out))?;
        Ok(Self {
            state: Mutex::new(State::Growing(buffer)),
        })
    }

    /// Appends the bytes of ``chunk``, any contiguous bytes-like object.
    fn append(&self, py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<()> {
        let append = |bytes: &[u8]| match &mut *self.lock() {
            State::Growing(buffer) => buffer
                .extend_from_slice(bytes)
                .map_err(|out| no_memory(py, out)),
            State::Lent(_) => Err(PyValueError::new_err(LENT)),
            State::Frozen(_) => Err(PyValueError::new_err(FROZEN)),
            State::Closed => Err(PyValueError::new_err(CLOSED)),
        };
        if let Ok(bytes) = chunk.cast::<PyBytes>() {
            return append(bytes.as_bytes());
        }
        let view = PyBuffer::<u8>::get(chunk)?;
        if !view.is_c_contiguous() {
            return Err(PyBufferError::new_err("chunk must be contiguous"));
        }
        // SAFETY: the view keeps `len_bytes` readable bytes at `buf_ptr`, and no Python code runs before they are copied.
        append(unsafe { slice::from_raw_parts(view.buf_ptr().cast::<u8>(), view.len_bytes()) })
    }

    /// Lends room for ``count`` more bytes, to be received in place, as by ``socket.recv_into``.
    fn room(slf: &Bound<'_, Self>, count: &Bound<'_, PyAny>) -> PyResult<Room> {
        let count = self::count("count", count)? as usize;
        let mut state = slf.get().lock();
        let buffer = match &mut *state {
            State::Growing(buffer) => buffer,
            State::Lent(_) => return Err(PyValueError::new_err(LENT)),
            State::Frozen(_) => return Err(PyValueError::new_err(FROZEN)),
            State::Closed => return Err(PyValueError::new_err(CLOSED)),
        };
        let reserved = buffer.reserve(count);
        reserved.map_err(|out| no_memory(slf.py(), out))?;
        let buffer = std::mem::take(buffer);
        *state = State::Lent(buffer.len());
        Ok(Room::new(slf.clone().unbind(), buffer, count))
    }

    /// A copy of the content as bytes. Freezes the body.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.freeze()?.as_slice()))
    }

    /// Gives the content up: its memory goes back to the pool, or when the last view or room of it does. A second time
    /// changes nothing.
    fn close(&self) {
        let content = std::mem::replace(&mut *self.lock(), State::Closed);
        drop(content);
    }

    /// Whether the content was given up.
    #[getter]
    fn closed(&self) -> bool {
        matches!(&*self.lock(), State::Closed)
    }

    /// Whether the content is final.
    #[getter]
    fn frozen(&self) -> bool {
        matches!(&*self.lock(), State::Frozen(_))
    }

    fn __len__(&self) -> usize {
        match &*self.lock() {
            State::Growing(buffer) => buffer.len(),
            State::Lent(len) => *len,
            State::Frozen(buffer) => buffer.len(),
            State::Closed => 0,
        }
    }

    fn __repr__(&self) -> String {
        let state = match &*self.lock() {
            State::Growing(_) => "growing",
            State::Lent(_) => "being written to",
            State::Frozen(_) => "frozen",
            State::Closed => "closed",
        };
        format!("<Body: {} bytes, {state}>", self.__len__())
    }

    /// A read-only view of the content. Freezes the body.
    ///
    /// # Safety
    /// The interpreter passes a valid `view`.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let Frozen(content) = slf.get().freeze()?;
        let bytes = content.as_slice();
        let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the content stays in place for as long as the view holds it, because it is frozen; nobody may write.
        unsafe {
            fill(view, slf.as_any(), start, len, READ_ONLY, flags)?;
            (*view).internal = Arc::into_raw(content).cast_mut().cast();
        };
        Ok(())
    }

    /// The end of a view.
    ///
    /// # Safety
    /// The interpreter passes each view that `__getbuffer__` has filled, once.
    unsafe fn __releasebuffer__(&self, view: *mut ffi::Py_buffer) {
        // SAFETY: `__getbuffer__` put it there, and nobody else touches it.
        drop(unsafe { Arc::from_raw((*view).internal.cast::<Buffer<u8>>()) });
    }
}
