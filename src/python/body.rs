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
    Frozen {
        content: Arc<Buffer<u8>>,
        exported: bool,
    },
    Closed {
        /// The content, if it was exported.
        _kept: Option<Arc<Buffer<u8>>>,
    },
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
        self.freeze_for(false)
    }

    /// The same; once the content was exported it stays where it is for as long as the body lives.
    fn freeze_for(&self, export: bool) -> PyResult<Frozen> {
        let mut state = self.lock();
        if let State::Growing(buffer) = &mut *state {
            let content = Arc::new(std::mem::take(buffer));
            let exported = false;
            *state = State::Frozen { content, exported };
        }
        match &mut *state {
            State::Frozen { content, exported } => {
                *exported |= export;
                Ok(Frozen(Arc::clone(content)))
            }
            State::Closed { .. } => Err(PyValueError::new_err(CLOSED)),
            State::Growing(_) | State::Lent(_) => Err(PyValueError::new_err(LENT)),
        }
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
        let buffer = Buffer::transient(capacity as usize, expected as usize)
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
            State::Frozen { .. } => Err(PyValueError::new_err(FROZEN)),
            State::Closed { .. } => Err(PyValueError::new_err(CLOSED)),
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
            State::Frozen { .. } => return Err(PyValueError::new_err(FROZEN)),
            State::Closed { .. } => return Err(PyValueError::new_err(CLOSED)),
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

    /// Gives the content up. Its memory goes back to the pool: at once; or with a ``Room`` that is out, or at the end of a
    /// decoding that is under way; or, if a buffer of it was ever exported, when the body dies. A second time changes nothing.
    fn close(&self) {
        let mut state = self.lock();
        let kept = match &*state {
            State::Closed { .. } => return,
            // Some take the address from a view, drop the view, and keep the object: torch.frombuffer does.
            State::Frozen { content, exported } if *exported => Some(Arc::clone(content)),
            _ => None,
        };
        let content = std::mem::replace(&mut *state, State::Closed { _kept: kept });
        drop(state);
        drop(content);
    }

    /// Whether the content was given up.
    #[getter]
    fn closed(&self) -> bool {
        matches!(&*self.lock(), State::Closed { .. })
    }

    /// Whether the content is final.
    #[getter]
    fn frozen(&self) -> bool {
        matches!(&*self.lock(), State::Frozen { .. })
    }

    fn __len__(&self) -> usize {
        match &*self.lock() {
            State::Growing(buffer) => buffer.len(),
            State::Lent(len) => *len,
            State::Frozen { content, .. } => content.len(),
            State::Closed { .. } => 0,
        }
    }

    fn __repr__(&self) -> String {
        let state = match &*self.lock() {
            State::Growing(_) => "growing",
            State::Lent(_) => "being written to",
            State::Frozen { .. } => "frozen",
            State::Closed { .. } => "closed",
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
        let frozen = slf.get().freeze_for(true)?;
        let bytes = frozen.as_slice();
        let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the content stays in place for as long as the body lives, because it is exported; nobody may write.
        unsafe { fill(view, slf.as_any(), start, len, READ_ONLY, flags) }
    }
}
