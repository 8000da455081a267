//! The one place that makes an exception of an error.

use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use super::call_unwind::call;
use crate::error::{Class, Error};
use crate::http::{Failure, Fault};
use crate::limits::MAX_ERROR_BODY;

/// The exception of an error that was found in `body`.
#[cold]
pub(super) fn exception(py: Python<'_>, error: &Error, body: &[u8]) -> PyErr {
    static MALFORMED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static MISSING: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static ALIGNMENT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static ROUTED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static SERVER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static ENGINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (class, name) = match error.class {
        Class::Malformed => (&MALFORMED, "MalformedBodyError"),
        Class::Missing => (&MISSING, "MissingFieldError"),
        Class::Alignment => (&ALIGNMENT, "AlignmentError"),
        Class::RoutedExperts => (&ROUTED, "RoutedExpertsError"),
        Class::Server => (&SERVER, "ServerError"),
        Class::Engine => (&ENGINE, "EngineError"),
        Class::Argument => return PyValueError::new_err(error.to_string()),
        Class::Memory => return PyMemoryError::new_err(error.to_string()),
    };
    let build = || -> PyResult<PyErr> {
        let class = class.import(py, "dynamo_tito._errors", name)?;
        let attributes = PyDict::new(py);
        if matches!(error.class, Class::Server | Class::Engine) {
            let head = &body[..body.len().min(MAX_ERROR_BODY)];
            attributes.set_item("body", PyBytes::new(py, head))?;
        } else {
            attributes.set_item("kind", error.kind)?;
            attributes.set_item("path", &error.path)?;
            attributes.set_item("offset", error.offset)?;
        }
        let message = PyTuple::new(py, [error.to_string()])?;
        Ok(PyErr::from_value(call(class, &message, Some(&attributes))?))
    };
    build().unwrap_or_else(|failed| failed)
}

/// The exception of an exchange without a whole answer.
#[cold]
pub(super) fn transport(py: Python<'_>, failure: &Failure) -> PyErr {
    static TRANSPORT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let build = || -> PyResult<PyErr> {
        let message = match &failure.fault {
            Fault::Memory(out) => return Ok(PyMemoryError::new_err(out.to_string())),
            Fault::Said(said) => PyTuple::new(py, [said])?,
            Fault::Over {
                what,
                found,
                ceiling,
                keyword,
            } => {
                let module = py.import("dynamo_tito._config")?;
                let found = format!("{what} at least {found} bytes");
                let words = (found, ceiling, keyword).into_pyobject(py)?;
                let said = call(&module.getattr("over_limit_message")?, &words, None)?;
                PyTuple::new(py, [said])?
            }
        };
        let class = TRANSPORT.import(py, "dynamo_tito._errors", "TransportError")?;
        let attributes = PyDict::new(py);
        attributes.set_item("phase", failure.phase.name())?;
        Ok(PyErr::from_value(call(class, &message, Some(&attributes))?))
    };
    build().unwrap_or_else(|failed| failed)
}
