//! Token ids of a request as text.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arguments::token_ids;
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
