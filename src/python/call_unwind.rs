//! Calls that run Python code.
#![allow(unsafe_code)] // the interpreter's call, declared as what it is: it may unwind

use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

type Call =
    unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

/// The interpreter's call. pyo3 declares it as one that never unwinds, and the compiler relies on that.
// SAFETY: the same signature; the two ABIs differ only in whether unwinding is allowed.
static CALL: Call = unsafe {
    std::mem::transmute::<
        unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject,
        Call,
    >(ffi::PyObject_Call)
};

/// Calls `callable`, whose code may let go of the interpreter.
///
/// If the interpreter is finalised meanwhile, a daemon thread does not get it back: before Python 3.14 `pthread_exit`
/// unwinds its stack instead, and a process that unwinds Rust frames so is aborted. The thread stops here for good, as it
/// does by itself from 3.14 on.
pub(super) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = kwargs.map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: a static. Volatile, so that the call is one of a function that nothing is known about.
    let interpreter = unsafe { ptr::read_volatile(&raw const CALL) };
    let stay = Stay;
    // SAFETY: three live objects of the types that the function takes (the last may be null), and `py` is attached.
    let result = unsafe { interpreter(callable.as_ptr(), args.as_ptr(), kwargs) };
    std::mem::forget(stay);
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}

/// Keeps an unwinding thread where it is.
struct Stay;

impl Drop for Stay {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}
