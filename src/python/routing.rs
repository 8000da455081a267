//! Facts about routed experts that the caller already has as an array.

use numpy::{Element, PyArray3, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arguments::{kind, optional_size};
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
    Ok(array.readonly())
}
