//! Scores of given tokens: out of a response, and compared with those that the tokens were sampled with.

use std::sync::Arc;

use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use super::arguments::{self, kind};
use super::arrays::readable;
use super::body::Content;
use super::completion::{make, prompt_logprobs, record};
use super::errors::exception;
use crate::divergence::{self as compare, Missing};
use crate::experts::Target;
use crate::{ExpertsMode, Options, wire};

/// Decodes the log-probabilities of a prompt's own tokens out of a response body into a ``PromptLogprobs`` of P positions.
///
/// ``prompt_token_ids`` are the P ids that were scored: every value is looked up by the id at its position. Positions before
/// ``start``, at most P, are NaN and have no entries; what the server says of them must still name the prompt's tokens.
/// Position 0 is NaN, and where the engine has no log-probability ``missing_logprob`` decides: ``"raise"`` or ``"nan"``.
/// ``body``, ``wire``, ``logprobs_dtype`` and ``limits`` are as for ``decode``; routed experts are not read.
///
/// Raises ``DecodeError`` for a body that breaks a rule or has no prompt log-probabilities, ``ServerError`` for an error body, and
/// ``TypeError`` or ``ValueError`` for wrong arguments.
#[pyfunction]
#[pyo3(signature = (body, /, *, wire, prompt_token_ids, start=None, missing_logprob="raise", logprobs_dtype="float64",
    limits=None),
    text_signature = "(body, /, *, wire, prompt_token_ids, start=0, missing_logprob='raise', logprobs_dtype='float64', limits=None)")]
pub(super) fn decode_prompt_logprobs(
    body: &Bound<'_, PyAny>,
    wire: &str,
    prompt_token_ids: &Bound<'_, PyAny>,
    start: Option<&Bound<'_, PyAny>>,
    missing_logprob: &str,
    logprobs_dtype: &str,
    limits: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let py = body.py();
    let ids = arguments::token_ids("prompt_token_ids", prompt_token_ids)?;
    let start = start.map_or(Ok(0), |start| arguments::count("start", start))?;
    if start > ids.len() as u64 {
        return Err(PyValueError::new_err(format!(
            "start is {start}, the prompt has {} tokens",
            ids.len()
        )));
    }
    let options = Options {
        prompt_token_ids: Some(&ids),
        experts: ExpertsMode::Skip,
        require_logprobs: false,
        missing_logprob: arguments::missing_logprob(missing_logprob)?,
        logprobs_dtype: arguments::logprobs_dtype(logprobs_dtype)?,
        score_from: Some(start),
        limits: arguments::limits(limits)?,
        ..Options::new(arguments::wire(wire)?)
    };
    let bytes = Content::new(body)?;
    let content = bytes.as_slice();
    let mut decoded = py
        .detach(|| wire::decode(content, &options, false, Target::Own))
        .map_err(|error| exception(py, &error, content))?;
    let prompt = decoded.pop().map(|one| one.prompt);
    let scores = prompt
        .and_then(Arc::into_inner)
        .and_then(|prompt| prompt.logprobs)
        .expect("scoring found prompt logprobs or was refused");
    prompt_logprobs(py, scores)
}

/// Log-probabilities in the width that they came in.
enum Column<'py> {
    Single(PyReadonlyArrayDyn<'py, f32>),
    Double(PyReadonlyArrayDyn<'py, f64>),
}

/// Compares two scorings of the same tokens, where ``mask`` is true; values elsewhere are not read.
///
/// ``sample_logprobs`` are what the tokens were sampled with, ``scored`` what another engine or the trainer says of them (a
/// ``PromptLogprobs`` or an array). Both are float32 or float64, ``mask`` is bool, and all three have one shape. With
/// d = sample - scored: ``mean`` is the mean of d, ``mean_abs`` and ``max_abs`` the mean and the largest of abs(d), and ``k3``
/// the mean of exp(-d) - 1 + d, which estimates the Kullback-Leibler divergence of the sampler from the scorer and is never
/// negative. Where nothing was compared they are NaN.
///
/// NaN for a sampled token is a ``ValueError`` with ``missing_logprob="raise"``; with ``"skip"`` it is left out and counted in
/// ``skipped``. Infinity is always a ``ValueError``.
#[pyfunction]
#[pyo3(signature = (sample_logprobs, scored, mask, *, missing_logprob="raise"))]
pub(super) fn divergence(
    sample_logprobs: &Bound<'_, PyAny>,
    scored: &Bound<'_, PyAny>,
    mask: &Bound<'_, PyAny>,
    missing_logprob: &str,
) -> PyResult<Py<PyAny>> {
    let py = mask.py();
    let missing = match missing_logprob {
        "raise" => Missing::Raise,
        "skip" => Missing::Skip,
        _ => {
            return Err(PyValueError::new_err(format!(
                "missing_logprob must be one of \"raise\", \"skip\", not {missing_logprob:?}"
            )));
        }
    };
    let scored = if scored.is_instance(record!(py, "PromptLogprobs")?)? {
        &scored.getattr("logprobs")?
    } else {
        scored
    };
    let sample = array("sample_logprobs", sample_logprobs)?;
    let other = array("scored", scored)?;
    let flags = array("mask", mask)?;
    if flags.dtype().kind() != b'b' {
        return Err(PyTypeError::new_err(format!(
            "mask must be of bool, not {}",
            flags.dtype()
        )));
    }
    for (name, array) in [("scored", &other), ("mask", &flags)] {
        if array.shape() != sample.shape() {
            return Err(PyValueError::new_err(format!(
                "{name} has the shape {:?}, sample_logprobs {:?}",
                array.shape(),
                sample.shape()
            )));
        }
    }
    let sample = column("sample_logprobs", &sample)?;
    let other = column("scored", &other)?;
    let flags = contiguous(&flags)?
        .call_method1("view", ("u1",))?
        .cast_into::<PyArrayDyn<u8>>()?;
    let flags = readable("mask", &flags)?;
    let flags = flags.as_slice()?;
    let found = match (&sample, &other) {
        (Column::Single(a), Column::Single(b)) => run(py, a, b, flags, missing),
        (Column::Single(a), Column::Double(b)) => run(py, a, b, flags, missing),
        (Column::Double(a), Column::Single(b)) => run(py, a, b, flags, missing),
        (Column::Double(a), Column::Double(b)) => run(py, a, b, flags, missing),
    }?;
    let fields = (
        found.count,
        found.skipped,
        found.mean,
        found.mean_abs,
        found.max_abs,
        found.k3,
    );
    make(record!(py, "Divergence")?, fields)
}

/// The pass itself, without the GIL.
fn run<A, B>(
    py: Python<'_>,
    sample: &PyReadonlyArrayDyn<'_, A>,
    scored: &PyReadonlyArrayDyn<'_, B>,
    mask: &[u8],
    missing: Missing,
) -> PyResult<compare::Divergence>
where
    A: Element + Copy + Into<f64> + Sync,
    B: Element + Copy + Into<f64> + Sync,
{
    let (sample, scored) = (sample.as_slice()?, scored.as_slice()?);
    py.detach(|| compare::divergence(sample, scored, mask, missing))
        .map_err(|error| exception(py, &error, &[]))
}

fn array<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    Ok(object
        .cast::<PyUntypedArray>()
        .map_err(|_| {
            PyTypeError::new_err(format!(
                "{name} must be a numpy array, not {}",
                kind(object)
            ))
        })?
        .clone())
}

fn column<'py>(name: &str, array: &Bound<'py, PyUntypedArray>) -> PyResult<Column<'py>> {
    let array = contiguous(array)?;
    if let Ok(single) = array.cast::<PyArrayDyn<f32>>() {
        return Ok(Column::Single(readable(name, single)?));
    }
    if let Ok(double) = array.cast::<PyArrayDyn<f64>>() {
        return Ok(Column::Double(readable(name, double)?));
    }
    let dtype = array.getattr("dtype")?;
    Err(PyTypeError::new_err(format!(
        "{name} must be of float32 or float64, not {dtype}"
    )))
}

/// The array in C order, copied only if it is not already.
fn contiguous<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyAny>> {
    if array.is_c_contiguous() {
        return Ok(array.as_any().clone());
    }
    let numpy = array.py().import("numpy")?;
    numpy.call_method1("ascontiguousarray", (array,))
}
