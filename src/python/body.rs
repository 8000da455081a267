//! The growable buffer that transports fill.
#![allow(unsafe_code)] // the buffer protocol, and a slice that freezing keeps in place

use std::ffi::{c_int, c_void};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arguments::count;
use crate::error::Error;
use crate::memory::Buffer;

/// A response body that grows as it arrives, and is decoded without a copy.
///
/// Decoding, exporting a buffer or ``tobytes`` freezes it: from then on ``append`` raises ValueError. Its memory comes from the
/// same pool as the results (``memory_stats``). Safe to share between threads.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct Body {
    state: Mutex<State>,
}

enum State {
    Growing(Buffer<u8>),
    Frozen(Arc<Buffer<u8>>),
}

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
    pub(super) fn freeze(&self) -> Frozen {
        let mut state = self.lock();
        if let State::Growing(buffer) = &mut *state {
            *state = State::Frozen(Arc::new(std::mem::take(buffer)));
        }
        match &*state {
            State::Frozen(buffer) => Frozen(Arc::clone(buffer)),
            State::Growing(_) => unreachable!("frozen above"),
        }
    }
}

#[pymethods]
impl Body {
    /// Room for ``capacity`` bytes at first; it grows as needed.
    #[new]
    #[pyo3(signature = (capacity=None, /), text_signature = "(capacity=0, /)")]
    fn new(py: Python<'_>, capacity: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let capacity = capacity.map_or(Ok(0), |capacity| count("capacity", capacity))?;
        let buffer = Buffer::passing(capacity as usize).map_err(|out| no_memory(py, out))?;
        Ok(Self {
            state: Mutex::new(State::Growing(buffer)),
        })
    }

    /// Appends the bytes of ``chunk``, any contiguous bytes-like object.
    fn append(&self, py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<()> {
        let frozen =
            || PyValueError::new_err("the body is frozen: it has been decoded or exported");
        let append = |bytes: &[u8]| match &mut *self.lock() {
            State::Growing(buffer) => buffer
                .extend_from_slice(bytes)
                .map_err(|out| no_memory(py, out)),
            State::Frozen(_) => Err(frozen()),
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

    /// A copy of the content as bytes. Freezes the body.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.freeze().as_slice())
    }

    /// Whether the content is final.
    #[getter]
    fn frozen(&self) -> bool {
        matches!(&*self.lock(), State::Frozen(_))
    }

    fn __len__(&self) -> usize {
        match &*self.lock() {
            State::Growing(buffer) => buffer.len(),
            State::Frozen(buffer) => buffer.len(),
        }
    }

    fn __repr__(&self) -> String {
        let state = if self.frozen() { "frozen" } else { "growing" };
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
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let frozen = slf.get().freeze();
        let bytes = frozen.as_slice();
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: `view` is valid; the content stays in place for as long as the body lives, because it is frozen, and the
        // view holds a reference to the body. The interpreter refuses a writable view of what is said to be read-only.
        let status = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                start,
                bytes.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if status == -1 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
