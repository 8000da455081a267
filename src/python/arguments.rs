//! Arguments of the decoding functions. What does not fit is a `TypeError` or `ValueError` before anything is parsed.

use numpy::{PyArray1, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyInt, PyString, PyType};

use super::arrays::readable;
use crate::{ExpertsMode, FinalRow, Limits, LogprobsDtype, MissingLogprob, Wire};

/// The name of an object's type.
pub(super) fn kind(object: &Bound<'_, PyAny>) -> String {
    object
        .get_type()
        .name()
        .map_or_else(|_| "an object".into(), |name| name.to_string())
}

/// An integer of 0 or more.
pub(super) fn count(name: &str, object: &Bound<'_, PyAny>) -> PyResult<u64> {
    if object.is_instance_of::<PyBool>()
        || object.is_instance_of::<PyString>()
        || !object.hasattr("__index__")?
    {
        return Err(PyTypeError::new_err(format!(
            "{name} must be an int, not {}",
            kind(object)
        )));
    }
    match object.extract::<i64>() {
        Ok(value) if value >= 0 => Ok(value as u64),
        _ => Err(PyValueError::new_err(format!(
            "{name} must be between 0 and 2**63 - 1, not {object}"
        ))),
    }
}

/// The same, where None is fine.
pub(super) fn optional_count(
    name: &str,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<u64>> {
    object.map(|object| count(name, object)).transpose()
}

/// An integer of 1 or more, where None is fine.
pub(super) fn optional_size(
    name: &str,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<u64>> {
    let size = optional_count(name, object)?;
    if size == Some(0) {
        return Err(PyValueError::new_err(format!("{name} must be 1 or more")));
    }
    Ok(size)
}

/// One of a few words.
fn word<T: Copy>(name: &str, given: &str, words: &[(&str, T)]) -> PyResult<T> {
    words
        .iter()
        .find(|(word, _)| *word == given)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            PyValueError::new_err(format!(
                "{name} must be one of {}, not {given:?}",
                known.join(", ")
            ))
        })
}

pub(super) fn wire(given: &str) -> PyResult<Wire> {
    word("wire", given, &Wire::ALL)
}

pub(super) fn experts(given: &str) -> PyResult<ExpertsMode> {
    let words = [
        ("int32", ExpertsMode::Int32),
        ("native", ExpertsMode::Native),
        ("skip", ExpertsMode::Skip),
    ];
    word("experts", given, &words)
}

pub(super) fn logprobs_dtype(given: &str) -> PyResult<LogprobsDtype> {
    let words = [
        ("float64", LogprobsDtype::Float64),
        ("float32", LogprobsDtype::Float32),
    ];
    word("logprobs_dtype", given, &words)
}

pub(super) fn missing_logprob(given: &str) -> PyResult<MissingLogprob> {
    let words = [
        ("raise", MissingLogprob::Raise),
        ("nan", MissingLogprob::Nan),
    ];
    word("missing_logprob", given, &words)
}

pub(super) fn final_row(given: &str) -> PyResult<FinalRow> {
    let words = [
        ("omitted", FinalRow::Omitted),
        ("present", FinalRow::Present),
    ];
    word("final_row", given, &words)
}

/// A `Limits` of the Python package; None is the defaults. The class checks its values itself.
pub(super) fn limits(object: Option<&Bound<'_, PyAny>>) -> PyResult<Limits> {
    static LIMITS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let Some(object) = object else {
        return Ok(Limits::default());
    };
    if !object.is_instance(LIMITS.import(object.py(), "dynamo_tito._config", "Limits")?)? {
        return Err(PyTypeError::new_err(format!(
            "limits must be a Limits, not {}",
            kind(object)
        )));
    }
    Ok(Limits {
        max_depth: object.getattr("max_depth")?.extract()?,
        max_tokens: object.getattr("max_tokens")?.extract()?,
        max_rows: object.getattr("max_rows")?.extract()?,
        max_decompressed: object.getattr("max_decompressed_bytes")?.extract()?,
    })
}

/// Token ids: an integer array or a sequence of ints, each in [0, 2^31-1].
pub(super) fn token_ids(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    let range = |value: &dyn std::fmt::Display| {
        PyValueError::new_err(format!(
            "{name} must be token ids between 0 and 2**31 - 1, not {value}"
        ))
    };
    let narrow = |value: i64| match i32::try_from(value) {
        Ok(id) if id >= 0 => Ok(id),
        _ => Err(range(&value)),
    };
    if let Ok(array) = object.cast::<PyArray1<i32>>() {
        let ids = readable(name, array)?.as_array().to_vec();
        return match ids.iter().find(|&&id| id < 0) {
            Some(id) => Err(range(id)),
            None => Ok(ids),
        };
    }
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        if array.ndim() != 1 {
            return Err(PyValueError::new_err(format!(
                "{name} must have one dimension, not {}",
                array.ndim()
            )));
        }
        if !matches!(array.dtype().kind(), b'i' | b'u') {
            return Err(PyTypeError::new_err(format!(
                "{name} must be integers, not {}",
                array.dtype()
            )));
        }
        // numpy wraps what is beyond int64 around, so such items are read one by one.
        if array.dtype().kind() == b'u' && array.dtype().itemsize() == 8 {
            return array
                .try_iter()?
                .map(|item| narrow(item?.extract().unwrap_or(i64::MAX)))
                .collect();
        }
        let wide = match array.cast::<PyArray1<i64>>() {
            Ok(wide) => wide.clone(),
            Err(_) => array
                .call_method1("astype", ("int64",))?
                .cast_into::<PyArray1<i64>>()?,
        };
        let wide = readable(name, &wide)?;
        let mut ids = Vec::with_capacity(wide.len());
        for &id in wide.as_array() {
            ids.push(narrow(id)?);
        }
        return Ok(ids);
    }
    if object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err(format!(
            "{name} must be token ids, not {}",
            kind(object)
        )));
    }
    let items = object.try_iter().map_err(|_| {
        PyTypeError::new_err(format!(
            "{name} must be a sequence of ints, not {}",
            kind(object)
        ))
    })?;
    items
        .map(|item| {
            let item = item?;
            // The fast path: nearly every item is exactly an int.
            if item.is_exact_instance_of::<PyInt>() {
                return item
                    .extract::<i64>()
                    .map_or_else(|_| Err(range(&item)), narrow);
            }
            if item.is_instance_of::<PyBool>() || !item.hasattr("__index__")? {
                return Err(PyTypeError::new_err(format!(
                    "{name} must hold ints, not {}",
                    kind(&item)
                )));
            }
            match item.extract::<i64>() {
                Ok(value) => narrow(value),
                Err(_) => Err(range(&item)),
            }
        })
        .collect()
}
