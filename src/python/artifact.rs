//! Decoding of artifacts.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arguments;
use super::completion::run;
use crate::{Options, Wire, wire};

/// Decodes a generation artifact of Dynamo's into a ``Completion``: ``generation_artifact_v1`` with one choice, from
/// wherever it came; or ``choice_0.msgpack.zst``, what Dynamo's SGLang worker uploads.
///
/// ``data`` is the object as ``decode`` takes a body. ``routers`` are the ids of the routers that become the layers of
/// the routed experts, in this order; None takes all, in the order of the artifact, which is that of the engine's layers.
/// The other keywords are those of ``decode``. An artifact does not tell why the completion ended: ``finish_reason``,
/// ``aborted`` and ``usage`` are None. Of ``limits`` the decompressed bytes are looked at too, before memory is spent on them.
///
/// Raises ``DecodeError`` for an object that breaks a rule, and ``TypeError`` or ``ValueError`` for wrong arguments.
#[pyfunction]
#[pyo3(signature = (data, /, *, prompt_len=None, prompt_token_ids=None, routed_experts_prompt_start=None,
    num_layers=None, top_k=None, num_indexer_layers=None, index_topk=None, routers=None, experts="int32",
    experts_out=None, require_logprobs=true, require_routed_experts=false, missing_logprob="raise",
    logprobs_dtype="float64", limits=None))]
#[expect(clippy::too_many_arguments, reason = "keywords in Python")]
pub(super) fn decode_artifact<'py>(
    data: &Bound<'py, PyAny>,
    prompt_len: Option<&Bound<'py, PyAny>>,
    prompt_token_ids: Option<&Bound<'py, PyAny>>,
    routed_experts_prompt_start: Option<&Bound<'py, PyAny>>,
    num_layers: Option<&Bound<'py, PyAny>>,
    top_k: Option<&Bound<'py, PyAny>>,
    num_indexer_layers: Option<&Bound<'py, PyAny>>,
    index_topk: Option<&Bound<'py, PyAny>>,
    routers: Option<&Bound<'py, PyAny>>,
    experts: &str,
    experts_out: Option<&Bound<'py, PyAny>>,
    require_logprobs: bool,
    require_routed_experts: bool,
    missing_logprob: &str,
    logprobs_dtype: &str,
    limits: Option<&Bound<'py, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let ids = prompt_token_ids
        .map(|ids| arguments::token_ids("prompt_token_ids", ids))
        .transpose()?;
    let start = "routed_experts_prompt_start";
    let routers = routers.map(router_ids).transpose()?;
    let options = Options {
        prompt_len: arguments::optional_count("prompt_len", prompt_len)?,
        prompt_token_ids: ids.as_deref(),
        routed_experts_prompt_start: arguments::optional_count(start, routed_experts_prompt_start)?,
        num_layers: arguments::optional_size("num_layers", num_layers)?,
        top_k: arguments::optional_size("top_k", top_k)?,
        num_indexer_layers: arguments::optional_size("num_indexer_layers", num_indexer_layers)?,
        index_topk: arguments::optional_size("index_topk", index_topk)?,
        routers: routers.as_deref(),
        experts: arguments::experts(experts)?,
        require_logprobs,
        require_routed_experts,
        missing_logprob: arguments::missing_logprob(missing_logprob)?,
        logprobs_dtype: arguments::logprobs_dtype(logprobs_dtype)?,
        limits: arguments::limits(limits)?,
        ..Options::new(Wire::DynamoChat)
    };
    let mut completions = run(data, &options, experts_out, |content, target| {
        wire::decode_artifact(content, &options, target).map(|one| vec![one])
    })?;
    Ok(completions.remove(0))
}

/// Ids of routers, each once.
fn router_ids(routers: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let mut ids = Vec::new();
    for router in routers.try_iter()? {
        let id = arguments::count("routers", &router?)?;
        if ids.contains(&id) {
            return Err(PyValueError::new_err(format!("routers has {id} twice")));
        }
        ids.push(id);
    }
    if ids.is_empty() {
        return Err(PyValueError::new_err("routers is empty"));
    }
    Ok(ids)
}
