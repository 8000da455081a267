//! Records made slot by slot: the `__init__` of a frozen dataclass sets the same slots, in Python.
#![allow(unsafe_code)] // the interpreter's allocation and its setting of attributes

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

/// An object of a class of slots, all of which are `fields`, and which does nothing else when it is made.
pub(super) fn filled<'py, const N: usize>(
    class: &Bound<'py, PyType>,
    fields: [(&Bound<'py, PyString>, Bound<'py, PyAny>); N],
) -> PyResult<Py<PyAny>> {
    let py = class.py();
    // SAFETY: a class written in Python, whose instances the interpreter allocates so itself; the result is a new reference
    // or null with an exception set.
    let object = unsafe {
        let object = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        Bound::from_owned_ptr_or_err(py, object)?
    };
    for (name, value) in fields {
        // SAFETY: three live objects.
        let status =
            unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
        if status == -1 {
            return Err(PyErr::fetch(py));
        }
    }
    Ok(object.unbind())
}
