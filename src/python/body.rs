//! The bytes of a response: the growable body that transports fill, and the spare memory at its end that they write to.
#![allow(unsafe_code)] // the buffer protocol, and the length of what others have written

use std::ffi::c_int;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use super::arguments::{count, kind};
use super::view::{READ_ONLY, WRITABLE, fill};
use crate::error::Error;
use crate::memory::Buffer;

/// A response body that grows as it arrives, and is decoded without a copy.
///
/// Decoding, exporting a buffer or ``tobytes`` freezes it: from then on ``append`` raises ValueError. Its memory comes from the
/// same pool as the results (``memory_stats``). Safe to share between threads.
///
/// While a ``Spare`` of it is in use, everything but ``close``, ``closed``, ``frozen`` and ``len`` raises ValueError; once it was
/// closed, for good.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct Body {
    state: Mutex<State>,
}

enum State {
    Growing(Buffer<u8>),
    /// A `Spare` has the buffer, which had so many bytes.
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
const LENT: &str = "the body is being written to: a Spare of it is in use";

/// The bytes of a frozen body.
pub(super) struct Frozen(Arc<Buffer<u8>>);

fn no_memory(py: Python<'_>, out: crate::memory::OutOfMemory) -> PyErr {
    super::errors::exception(py, &Error::from(out), b"")
}

impl Body {
    /// A body that is there already.
    pub(super) fn of(content: Buffer<u8>) -> Self {
        let state = Mutex::new(State::Growing(content));
        Self { state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves the state whole: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends growth. With `export` the content stays in place for as long as the body lives.
    fn freeze(&self, export: bool) -> PyResult<Frozen> {
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

    /// Takes the buffer of a `Spare` back, and drops it if the body is closed.
    fn restore(&self, buffer: Buffer<u8>) {
        let mut state = self.lock();
        if matches!(*state, State::Lent(_)) {
            *state = State::Growing(buffer);
        }
    }
}

#[pymethods]
impl Body {
    /// Memory for ``capacity`` bytes at first; it grows as needed. ``expected`` is how many it will probably hold, 0 if
    /// unknown: a body that has grown to a megabyte gets memory for that many at once, and takes pages of that size from the pool.
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
        let append = |bytes: &[u8]| {
            let appended = match &mut *self.lock() {
                State::Growing(buffer) => buffer.extend_from_slice(bytes),
                State::Lent(_) => return Err(PyValueError::new_err(LENT)),
                State::Frozen { .. } => return Err(PyValueError::new_err(FROZEN)),
                State::Closed { .. } => return Err(PyValueError::new_err(CLOSED)),
            };
            // The lock is released: no Python code runs under it.
            appended.map_err(|out| no_memory(py, out))
        };
        if let Ok(bytes) = chunk.cast::<PyBytes>() {
            return append(bytes.as_bytes());
        }
        let view = PyBuffer::<u8>::get(chunk)?;
        if !view.is_c_contiguous() {
            return Err(PyBufferError::new_err("chunk must be contiguous"));
        }
        // SAFETY: the view keeps `len_bytes` readable bytes at `buf_ptr`. They are only copied: what another thread writes to
        // them meanwhile is in the copy or not.
        append(unsafe { slice::from_raw_parts(view.buf_ptr().cast::<u8>(), view.len_bytes()) })
    }

    /// Spare memory for ``count`` more bytes, to be received in place, as by ``socket.recv_into``.
    fn spare(slf: &Bound<'_, Self>, count: &Bound<'_, PyAny>) -> PyResult<Spare> {
        let count = self::count("count", count)? as usize;
        let mut state = slf.get().lock();
        let buffer = match &mut *state {
            State::Growing(buffer) => buffer,
            State::Lent(_) => return Err(PyValueError::new_err(LENT)),
            State::Frozen { .. } => return Err(PyValueError::new_err(FROZEN)),
            State::Closed { .. } => return Err(PyValueError::new_err(CLOSED)),
        };
        if let Err(out) = buffer.reserve(count) {
            drop(state);
            return Err(no_memory(slf.py(), out));
        }
        let buffer = std::mem::take(buffer);
        *state = State::Lent(buffer.len());
        let buffer = Some(buffer);
        Ok(Spare {
            body: slf.clone().unbind(),
            size: count,
            loan: Mutex::new(Loan { buffer, views: 0 }),
        })
    }

    /// A copy of the content as bytes. Freezes the body.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.freeze(false)?.0.as_slice()))
    }

    /// Gives the content up. Its memory goes back to the pool: at once; or with a ``Spare`` in use, or at the end of a
    /// decoding that is under way; or, if a buffer of it was ever exported, when the body dies. A second time changes nothing.
    fn close(&self) {
        let mut state = self.lock();
        let kept = match &*state {
            State::Closed { .. } => return,
            // torch.frombuffer takes the address from a view, drops the view, and keeps the object.
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
        let frozen = slf.get().freeze(true)?;
        let bytes = frozen.0.as_slice();
        let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the content stays in place for as long as the body lives, because it is exported, and is read-only.
        unsafe { fill(view, slf.as_any(), start, len, READ_ONLY, flags) }
    }
}

/// Spare memory at the end of a ``Body``: a writable buffer of ``len(spare)`` bytes, for ``recv_into`` and the like.
///
/// Bytes received here are copied nowhere. ``filled`` gives the memory back to the body. A ``Spare`` that is dropped without it
/// frees the content of the body, which then stays unusable. Safe to share between threads.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct Spare {
    body: Py<Body>,
    /// Bytes that may be written.
    size: usize,
    loan: Mutex<Loan>,
}

struct Loan {
    /// None once it is given back.
    buffer: Option<Buffer<u8>>,
    /// Exports of the buffer protocol that are not released yet.
    views: usize,
}

const GIVEN_BACK: &str = "the memory was given back to its body";

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Loan> {
        // A panic while holding it leaves the state whole.
        self.loan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Spare {
    /// Gives the memory back: its first ``count`` bytes are content of the body from now on.
    ///
    /// Raises ValueError for a second time or for more than ``len(spare)``, BufferError while a view of it is alive.
    fn filled(&self, count: &Bound<'_, PyAny>) -> PyResult<()> {
        let count = self::count("count", count)? as usize;
        if count > self.size {
            return Err(PyValueError::new_err(format!(
                "count must be at most {}, its size, not {count}",
                self.size
            )));
        }
        let mut loan = self.lock();
        if loan.views > 0 {
            let said = format!("{} views of it are alive: release them", loan.views);
            return Err(PyBufferError::new_err(said));
        }
        let taken = loan.buffer.take();
        let mut buffer = taken.ok_or_else(|| PyValueError::new_err(GIVEN_BACK))?;
        // SAFETY: there is memory for `size >= count` more bytes, initialised by the system or by an earlier use of the block.
        // No view is left to write to them from now on.
        unsafe { buffer.set_len(buffer.len() + count) };
        self.body.get().restore(buffer);
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.size
    }

    fn __repr__(&self) -> String {
        format!("<Spare: {} bytes>", self.size)
    }

    /// A writable view.
    ///
    /// # Safety
    /// The interpreter passes a valid `view`.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let spare = slf.get();
        let mut loan = spare.lock();
        let buffer = loan.buffer.as_mut();
        let buffer = buffer.ok_or_else(|| PyBufferError::new_err(GIVEN_BACK))?;
        let start = buffer.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes stay in place, and only the view's owner writes them, until the last view is released: `filled`
        // checks that.
        unsafe { fill(view, slf.as_any(), start, spare.size, WRITABLE, flags)? };
        loan.views += 1;
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

/// The bytes of a body, borrowed for as long as this lives.
pub(super) enum Content<'py> {
    Bytes(Bound<'py, PyBytes>),
    Body(Frozen),
}

impl<'py> Content<'py> {
    /// `bytes` and `Body` as they are, any other bytes-like object as a copy.
    pub(super) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone()));
        }
        if let Ok(body) = object.cast::<Body>() {
            return Ok(Self::Body(body.get().freeze(false)?));
        }
        let expected = || {
            PyTypeError::new_err(format!(
                "body must be bytes, Body or bytes-like, not {}",
                kind(object)
            ))
        };
        let view = PyMemoryView::from(object).map_err(|_| expected())?;
        let copy = view.call_method0("tobytes")?;
        Ok(Self::Bytes(
            copy.cast_into::<PyBytes>().map_err(|_| expected())?,
        ))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Body(frozen) => frozen.0.as_slice(),
        }
    }
}
