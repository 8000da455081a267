//! The Python binding: arguments in, arrays and exceptions out.

mod arguments;
mod arrays;
mod artifact;
mod body;
mod call_unwind;
mod completion;
mod counts;
mod encode;
mod errors;
mod fill;
mod http;
mod memory;
mod routing;
mod scoring;
mod stream;
mod view;

use pyo3::prelude::*;

/// The compiled core of dynamo-tito: response bytes in, numpy arrays out.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::artifact::decode_artifact;
    #[pymodule_export]
    use super::body::{Body, Spare};
    #[pymodule_export]
    use super::completion::{decode, decode_choices};
    #[pymodule_export]
    use super::counts::{CallRecord, CallSums};
    #[pymodule_export]
    use super::encode::encode_token_ids;
    #[pymodule_export]
    use super::http::{NativeCall, NativeEngine, NativeMailbox, give_way};
    #[pymodule_export]
    use super::memory::{build_info, configure_memory, memory_stats, trim_memory};
    #[pymodule_export]
    use super::routing::{encode_routed_experts, scan_routing};
    #[pymodule_export]
    use super::scoring::{decode_prompt_logprobs, divergence};
    #[pymodule_export]
    use super::stream::StreamDecoder;

    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    /// Refuses to load with a kernel or a bound that the environment names and this machine cannot follow.
    #[pymodule_init]
    fn check_environment(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        let problem = crate::base64::kernel_error()
            .map(str::to_owned)
            .or_else(crate::memory::environment_error);
        problem.map_or(Ok(()), |problem| Err(PyImportError::new_err(problem)))
    }
}
