//! The way out: ids of requests, and the worker's side of routed experts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use numpy::{
    PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::arguments::{count, kind, token_ids};
use crate::request::write_ids;

/// Writes ``prefix``, the ids as ``1,2,3`` and ``suffix`` into one bytes object.
///
/// ``ids`` is an integer array of one dimension or a sequence of ints, each in [0, 2^31-1], else ValueError. An int32 array is
/// by far the fastest.
#[pyfunction]
pub(super) fn encode_token_ids<'py>(
    prefix: &Bound<'py, PyBytes>,
    ids: &Bound<'py, PyAny>,
    suffix: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = ids.py();
    let ids = token_ids("ids", ids)?;
    let (prefix, suffix) = (prefix.as_bytes(), suffix.as_bytes());
    let body = py.detach(|| {
        let mut body = Vec::with_capacity(prefix.len() + suffix.len() + 7 * ids.len());
        body.extend_from_slice(prefix);
        write_ids(&ids, &mut body);
        body.extend_from_slice(suffix);
        body
    });
    Ok(PyBytes::new(py, &body))
}

/// The widths that a worker may send, narrowest first: name and largest id.
const WIDTHS: [(&str, i64); 3] = [
    ("uint8", u8::MAX as i64),
    ("uint16", u16::MAX as i64),
    ("int32", i32::MAX as i64),
];

/// Encodes routed experts as workers send them: ``{"data", "shape", "start", "dtype"}``.
///
/// ``array`` holds expert ids [rows, layers, top_k] of any integer dtype; ``start`` is the sequence position of row 0.
/// ``narrow`` picks the narrowest of uint8, uint16 and int32 that holds the ids; without it the array's own dtype is kept, which
/// must be uint8, uint16, int16 or int32. ``data`` is base64 of the rows, little-endian in C order.
#[pyfunction]
#[pyo3(signature = (array, *, start=None, narrow=true), text_signature = "(array, *, start=0, narrow=True)")]
pub(super) fn encode_routed_experts<'py>(
    array: &Bound<'py, PyAny>,
    start: Option<&Bound<'py, PyAny>>,
    narrow: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let py = array.py();
    let start = start.map_or(Ok(0), |start| count("start", start))?;
    let untyped = array.cast::<PyUntypedArray>().map_err(|_| {
        PyTypeError::new_err(format!("array must be a numpy array, not {}", kind(array)))
    })?;
    if !matches!(untyped.dtype().kind(), b'i' | b'u') {
        return Err(PyTypeError::new_err(format!(
            "array must hold integers, not {}",
            untyped.dtype()
        )));
    }
    let &[rows, layers, top_k] = untyped.shape() else {
        return Err(PyValueError::new_err(format!(
            "array must be [rows, layers, top_k], not {} dimensions",
            untyped.ndim()
        )));
    };
    if layers == 0 || top_k == 0 {
        return Err(PyValueError::new_err(
            "array must have at least one layer and one expert per token",
        ));
    }
    let (mut low, mut high) = (0, 0);
    if rows > 0 {
        let too_large = |_| PyValueError::new_err("expert ids must fit int32");
        low = array
            .call_method0("min")?
            .extract::<i64>()
            .map_err(too_large)?;
        high = array
            .call_method0("max")?
            .extract::<i64>()
            .map_err(too_large)?;
    }
    if low < 0 {
        return Err(PyValueError::new_err(format!(
            "expert ids must be 0 or more, not {low}"
        )));
    }
    let own = untyped.dtype().str()?.to_string();
    let dtype = if narrow {
        let width = WIDTHS.iter().find(|(_, largest)| high <= *largest);
        width
            .ok_or_else(|| PyValueError::new_err(format!("expert ids must fit int32, not {high}")))?
            .0
            .to_owned()
    } else if ["uint8", "uint16", "int16", "int32"].contains(&own.as_str()) {
        own
    } else {
        return Err(PyValueError::new_err(format!(
            "{own} is not a width that workers send; narrow=True picks one"
        )));
    };
    // As bytes: little-endian, C order, one contiguous run.
    let little = match dtype.as_str() {
        "uint8" => "|u1",
        "uint16" => "<u2",
        "int16" => "<i2",
        _ => "<i4",
    };
    let numpy = py.import("numpy")?;
    let contiguous = numpy.call_method1("ascontiguousarray", (array, little))?;
    let bytes = contiguous
        .call_method1("reshape", (-1,))?
        .call_method1("view", ("u1",))?;
    let bytes = bytes.cast_into::<PyArrayDyn<u8>>()?;
    let lent = bytes.readonly();
    let raw = lent.as_slice()?;
    let data = py.detach(|| STANDARD.encode(raw));
    let encoded = PyDict::new(py);
    encoded.set_item("data", PyString::new(py, &data))?;
    encoded.set_item("shape", [rows, layers, top_k])?;
    encoded.set_item("start", start)?;
    encoded.set_item("dtype", dtype)?;
    Ok(encoded)
}
