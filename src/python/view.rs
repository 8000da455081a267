//! Flat bytes shown through the buffer protocol.
#![allow(unsafe_code)] // the buffer protocol

use std::ffi::c_int;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

pub(super) const READ_ONLY: c_int = 1;
pub(super) const WRITABLE: c_int = 0;

/// Fills `view` with `len` bytes at `start`, which hold a reference to `owner`. Of what is read-only the interpreter
/// refuses a writable view.
///
/// # Safety
/// `view` is null or valid. The bytes are there for as long as the view is, and changed as `readonly` says.
pub(super) unsafe fn fill(
    view: *mut ffi::Py_buffer,
    owner: &Bound<'_, PyAny>,
    start: *mut u8,
    len: usize,
    readonly: c_int,
    flags: c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("no view to fill"));
    }
    let len = len as ffi::Py_ssize_t;
    // SAFETY: `view` is valid, and the caller guarantees the bytes.
    let status =
        unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start.cast(), len, readonly, flags) };
    if status == -1 {
        return Err(PyErr::fetch(owner.py()));
    }
    Ok(())
}
