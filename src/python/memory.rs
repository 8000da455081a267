//! What was built, and the memory it holds.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arguments::count;
use crate::memory;

/// What this build is: version, kernel in use, target, profile.
#[pyfunction]
pub(super) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("kernel", crate::base64::kernel_name())?;
    info.set_item(
        "target",
        format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    )?;
    info.set_item(
        "profile",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    )?;
    Ok(info)
}

/// Frees the memory that the pool keeps for reuse; returns how many bytes that were.
#[pyfunction]
pub(super) fn trim_memory() -> usize {
    memory::trim()
}

/// Bounds the pool; ``max_bytes=0`` turns it off. The environment variable DYNAMO_TITO_POOL_MAX_BYTES sets the start value.
#[pyfunction]
#[pyo3(signature = (*, max_bytes))]
pub(super) fn configure_memory(max_bytes: &Bound<'_, PyAny>) -> PyResult<()> {
    memory::configure(count("max_bytes", max_bytes)? as usize);
    Ok(())
}

/// What the pool holds and has done.
#[pyfunction]
pub(super) fn memory_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = memory::stats();
    let dict = PyDict::new(py);
    dict.set_item("held_bytes", stats.held_bytes)?;
    dict.set_item("held_blocks", stats.held_blocks)?;
    dict.set_item("max_bytes", stats.max_bytes)?;
    dict.set_item("reused", stats.reused)?;
    dict.set_item("allocated", stats.allocated)?;
    Ok(dict)
}
