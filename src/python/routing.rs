//! Routed experts that the caller has as an array: their encoding for a response, and facts about them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use numpy::{
    Element, PyArray3, PyArrayDescrMethods, PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::arguments::{count, kind, optional_size};
use super::arrays::readable;
use crate::routing::{Expected, ExpertId, Facts, scan};

/// Looks at C-contiguous routed experts [rows, layers, top_k] once; the Python side says what the facts mean.
#[pyfunction]
#[pyo3(signature = (array, /, *, num_experts=None, earlier=None))]
pub(super) fn scan_routing<'py>(
    array: &Bound<'py, PyAny>,
    num_experts: Option<&Bound<'py, PyAny>>,
    earlier: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let py = array.py();
    let experts = optional_size("num_experts", num_experts)?.map(|count| count as i64);
    let untyped = array.cast::<PyUntypedArray>().map_err(|_| {
        PyTypeError::new_err(format!("array must be a numpy array, not {}", kind(array)))
    })?;
    let name = untyped.dtype().str()?.to_string();
    let facts = match name.as_str() {
        "uint8" => facts::<u8>(array, experts, earlier),
        "uint16" => facts::<u16>(array, experts, earlier),
        "int16" => facts::<i16>(array, experts, earlier),
        "int32" => facts::<i32>(array, experts, earlier),
        _ => Err(PyTypeError::new_err(format!(
            "array must be uint8, uint16, int16 or int32, not {name}"
        ))),
    }?;
    let found = PyDict::new(py);
    found.set_item("zero_entries", facts.zero_entries)?;
    found.set_item("out_of_range", facts.out_of_range)?;
    found.set_item("first_out_of_range", facts.first_out_of_range)?;
    found.set_item("duplicates", facts.duplicates)?;
    found.set_item("first_duplicate", facts.first_duplicate)?;
    found.set_item("longest_run", facts.longest_run)?;
    found.set_item("disagreements", facts.disagreements)?;
    found.set_item("first_disagreement", facts.first_disagreement)?;
    Ok(found)
}

fn facts<T: Element + ExpertId + Sync>(
    array: &Bound<'_, PyAny>,
    num_experts: Option<i64>,
    earlier: Option<&Bound<'_, PyAny>>,
) -> PyResult<Facts> {
    let rows = lent::<T>("array", array)?;
    let before = earlier
        .map(|earlier| lent::<T>("earlier", earlier))
        .transpose()?;
    let shape = rows.shape();
    if shape[1] == 0 || shape[2] == 0 {
        return Err(PyValueError::new_err(
            "array must have at least one layer and one expert per token",
        ));
    }
    if let Some(before) = &before
        && before.shape() != shape
    {
        return Err(PyValueError::new_err(format!(
            "earlier is {:?}, array {shape:?}: they must be of the same tokens",
            before.shape()
        )));
    }
    let (layers, top_k) = (shape[1], shape[2]);
    let ids = rows.as_slice()?;
    let expected = Expected {
        num_experts,
        earlier: before
            .as_ref()
            .map(|before| before.as_slice())
            .transpose()?,
    };
    Ok(array.py().detach(|| scan(ids, layers, top_k, expected)))
}

fn lent<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<numpy::PyReadonlyArray3<'py, T>> {
    let array = array.cast::<PyArray3<T>>().map_err(|_| {
        PyTypeError::new_err(format!(
            "{name} must be [rows, layers, top_k] of one dtype, not {}",
            kind(array)
        ))
    })?;
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!(
            "{name} must be C-contiguous"
        )));
    }
    readable(name, array)
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
    let lent = readable("array", &bytes)?;
    let raw = lent.as_slice()?;
    let data = py.detach(|| STANDARD.encode(raw));
    let encoded = PyDict::new(py);
    encoded.set_item("data", PyString::new(py, &data))?;
    encoded.set_item("shape", [rows, layers, top_k])?;
    encoded.set_item("start", start)?;
    encoded.set_item("dtype", dtype)?;
    Ok(encoded)
}
