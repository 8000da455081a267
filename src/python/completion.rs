//! Decoding, and the records of the Python package that its results become.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use super::arguments;
use super::arrays::{ExpertsOut, flat, shaped};
use super::body::Content;
use super::call_unwind::call;
use super::errors::exception;
use crate::error::Result;
use crate::experts::{ExpertIds, Routed, Target};
use crate::json::Value;
use crate::wire::{
    self, ATTRIBUTES, Attribute, Decoded, Floats, Prompt, PromptLogprobs, SamplingMask, StopReason,
    TopLogprobs,
};
use crate::{ExpertsMode, Options};

/// The keywords of everything that decodes.
pub(super) struct Keywords<'a, 'py> {
    pub(super) wire: &'a str,
    pub(super) prompt_len: Option<&'a Bound<'py, PyAny>>,
    pub(super) prompt_token_ids: Option<&'a Bound<'py, PyAny>>,
    pub(super) routed_experts_prompt_start: Option<&'a Bound<'py, PyAny>>,
    pub(super) num_layers: Option<&'a Bound<'py, PyAny>>,
    pub(super) top_k: Option<&'a Bound<'py, PyAny>>,
    pub(super) num_indexer_layers: Option<&'a Bound<'py, PyAny>>,
    pub(super) index_topk: Option<&'a Bound<'py, PyAny>>,
    pub(super) experts: &'a str,
    pub(super) require_logprobs: bool,
    pub(super) require_routed_experts: bool,
    pub(super) missing_logprob: &'a str,
    pub(super) logprobs_dtype: &'a str,
    pub(super) final_row: &'a str,
    pub(super) limits: Option<&'a Bound<'py, PyAny>>,
}

impl Keywords<'_, '_> {
    /// Checks them. `ids` is where the ids of the prompt go.
    pub(super) fn options<'i>(&self, ids: &'i mut Option<Vec<i32>>) -> PyResult<Options<'i>> {
        *ids = self
            .prompt_token_ids
            .map(|ids| arguments::token_ids("prompt_token_ids", ids))
            .transpose()?;
        let start = arguments::optional_count(
            "routed_experts_prompt_start",
            self.routed_experts_prompt_start,
        )?;
        Ok(Options {
            prompt_len: arguments::optional_count("prompt_len", self.prompt_len)?,
            prompt_token_ids: ids.as_deref(),
            routed_experts_prompt_start: start,
            num_layers: arguments::optional_size("num_layers", self.num_layers)?,
            top_k: arguments::optional_size("top_k", self.top_k)?,
            num_indexer_layers: arguments::optional_size(
                "num_indexer_layers",
                self.num_indexer_layers,
            )?,
            index_topk: arguments::optional_size("index_topk", self.index_topk)?,
            experts: arguments::experts(self.experts)?,
            require_logprobs: self.require_logprobs,
            require_routed_experts: self.require_routed_experts,
            missing_logprob: arguments::missing_logprob(self.missing_logprob)?,
            logprobs_dtype: arguments::logprobs_dtype(self.logprobs_dtype)?,
            final_row: arguments::final_row(self.final_row)?,
            limits: arguments::limits(self.limits)?,
            ..Options::new(arguments::wire(self.wire)?)
        })
    }
}

/// Both decoding functions take the same keywords, visible in their signatures.
macro_rules! decoder {
    ($(#[$doc:meta])* $name:ident -> $returns:ty, several: $several:literal, $completions:ident => $result:expr) => {
        $(#[$doc])*
        #[pyfunction]
        #[pyo3(signature = (body, /, *, wire, prompt_len=None, prompt_token_ids=None, routed_experts_prompt_start=None,
            num_layers=None, top_k=None, num_indexer_layers=None, index_topk=None, experts="int32", experts_out=None,
            require_logprobs=true, require_routed_experts=false, missing_logprob="raise", logprobs_dtype="float64",
            final_row="omitted",
            limits=None))]
        #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
        pub(super) fn $name<'py>(
            body: &Bound<'py, PyAny>,
            wire: &str,
            prompt_len: Option<&Bound<'py, PyAny>>,
            prompt_token_ids: Option<&Bound<'py, PyAny>>,
            routed_experts_prompt_start: Option<&Bound<'py, PyAny>>,
            num_layers: Option<&Bound<'py, PyAny>>,
            top_k: Option<&Bound<'py, PyAny>>,
            num_indexer_layers: Option<&Bound<'py, PyAny>>,
            index_topk: Option<&Bound<'py, PyAny>>,
            experts: &str,
            experts_out: Option<&Bound<'py, PyAny>>,
            require_logprobs: bool,
            require_routed_experts: bool,
            missing_logprob: &str,
            logprobs_dtype: &str,
            final_row: &str,
            limits: Option<&Bound<'py, PyAny>>,
        ) -> PyResult<$returns> {
            let keywords = Keywords {
                wire,
                prompt_len,
                prompt_token_ids,
                routed_experts_prompt_start,
                num_layers,
                top_k,
                num_indexer_layers,
                index_topk,
                experts,
                require_logprobs,
                require_routed_experts,
                missing_logprob,
                logprobs_dtype,
                final_row,
                limits,
            };
            let mut ids = None;
            let options = keywords.options(&mut ids)?;
            let mut $completions = run(body, &options, experts_out, |content, target| {
                wire::decode(content, &options, $several, target)
            })?;
            Ok($result)
        }
    };
}

decoder! {
    /// Decodes a response body with one choice into a ``Completion``.
    ///
    /// ``body`` is ``bytes`` or a ``Body``, borrowed without a copy, or any other bytes-like object, which is copied first.
    /// It is never changed, and no result refers to it. The GIL is released while it is read.
    ///
    /// ``wire`` names the endpoint that answered. ``prompt_len`` is the number of tokens of this request's prompt as the engine
    /// ran it (history included, after multimodal expansion), P. Without it, P is the length of ``prompt_token_ids``, else that
    /// of the prompt that the response echoes. Where P is known, rows of routed experts are counted. The server's own counts
    /// (``usage``, SGLang's ``meta_info``) must agree with P and with the token ids, and an echo with what was passed.
    /// With ``prompt_token_ids``, prompt logprobs can be looked up.
    /// ``routed_experts_prompt_start`` drops the routing of that many leading positions where the server has not. Rows without
    /// a start (npy, bare base64) are placed by P; where P is not known they are a ``ValueError``, unless this is 0, which says
    /// that the first row is that of the first token.
    /// ``logprobs_dtype`` is the type of every log-probability of the result, ``"float64"`` as read or ``"float32"``, the nearest.
    /// ``limits`` is a ``Limits``, of which the depth, tokens and rows are looked at here.
    ///
    /// Raises ``DecodeError`` for a body that breaks a rule, ``ServerError`` for an error body, and ``TypeError`` or
    /// ``ValueError`` for wrong arguments.
    decode -> Py<PyAny>, several: false, completions => completions.remove(0)
}

decoder! {
    /// Decodes every choice of a response body, by index. Arguments and errors are those of ``decode``.
    decode_choices -> Vec<Py<PyAny>>, several: true, completions => { completions.shrink_to_fit(); completions }
}

/// Decodes without the GIL, then wraps.
pub(super) fn run<'py>(
    body: &Bound<'py, PyAny>,
    options: &Options<'_>,
    experts_out: Option<&Bound<'py, PyAny>>,
    decode: impl Send + FnOnce(&[u8], Target<'_>) -> Result<Vec<Decoded>>,
) -> PyResult<Vec<Py<PyAny>>> {
    let py = body.py();
    let mut out = lend(experts_out, options)?;
    let bytes = Content::new(body)?;
    let content = bytes.as_slice();
    let target = match &mut out {
        Some(out) => Target::Into(out.memory()?),
        None => Target::Own,
    };
    let decoded = py
        .detach(|| decode(content, target))
        .map_err(|error| exception(py, &error, content))?;
    completions(py, decoded, out)
}

/// Borrows the caller's array for routed experts.
pub(super) fn lend<'py>(
    experts_out: Option<&Bound<'py, PyAny>>,
    options: &Options<'_>,
) -> PyResult<Option<ExpertsOut<'py>>> {
    let out = experts_out.map(ExpertsOut::new).transpose()?;
    if out.is_some() && options.experts != ExpertsMode::Int32 {
        return Err(PyValueError::new_err(
            "experts_out takes int32: it needs experts=\"int32\"",
        ));
    }
    Ok(out)
}

/// The records of the completions of one response.
pub(super) fn completions(
    py: Python<'_>,
    mut decoded: Vec<Decoded>,
    mut out: Option<ExpertsOut<'_>>,
) -> PyResult<Vec<Py<PyAny>>> {
    // Choices of one response share their prompt: once none but one refers to it, its memory can become arrays.
    let prompts: Vec<Arc<Prompt>> = decoded
        .iter_mut()
        .map(|one| std::mem::take(&mut one.prompt))
        .collect();
    let shared = prompts
        .windows(2)
        .all(|pair| Arc::ptr_eq(&pair[0], &pair[1]));
    let mut prompts = prompts.into_iter();
    let first = prompts.next();
    let rest: Vec<_> = if shared {
        Vec::new()
    } else {
        prompts.by_ref().collect()
    };
    drop(prompts);
    let mut wrapped = first
        .into_iter()
        .chain(rest)
        .map(|prompt| PromptArrays::new(py, Arc::into_inner(prompt).unwrap_or_default()))
        .collect::<PyResult<Vec<_>>>()?
        .into_iter();
    let mut prompt = wrapped.next();
    let mut completions = Vec::with_capacity(decoded.len());
    for one in decoded {
        if let Some(prompt) = &prompt {
            completions.push(completion(py, one, prompt, &mut out)?);
        }
        if let Some(next) = wrapped.next() {
            prompt = Some(next);
        }
    }
    Ok(completions)
}

/// A class of `dynamo_tito._types`, imported once.
macro_rules! record {
    ($py:expr, $name:literal) => {{
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        CLASS.import($py, "dynamo_tito._types", $name)
    }};
}
pub(super) use record;

/// A record of these fields, in the order of its class.
pub(super) fn make<'py>(
    class: &Bound<'py, PyType>,
    fields: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error: Into<PyErr>>,
) -> PyResult<Py<PyAny>> {
    let fields = fields.into_pyobject(class.py()).map_err(Into::into)?;
    Ok(call(class, &fields, None)?.unbind())
}

/// The prompt as Python objects, shared by the choices of a response.
struct PromptArrays {
    token_ids: Py<PyAny>,
    logprobs: Py<PyAny>,
    token_id_logprobs: Py<PyAny>,
}

impl PromptArrays {
    fn new(py: Python<'_>, prompt: Prompt) -> PyResult<Self> {
        let token_ids = prompt
            .token_ids
            .map_or_else(|| Ok(py.None()), |ids| flat(py, ids))?;
        let logprobs = prompt
            .logprobs
            .map_or_else(|| Ok(py.None()), |scores| prompt_logprobs(py, scores))?;
        let matrix = prompt.token_id_logprobs;
        let token_id_logprobs = matrix.map_or_else(
            || Ok(py.None()),
            |matrix| shaped(py, matrix.values, matrix.shape),
        )?;
        Ok(Self {
            token_ids,
            logprobs,
            token_id_logprobs,
        })
    }
}

/// A ``PromptLogprobs``.
pub(super) fn prompt_logprobs(py: Python<'_>, scores: PromptLogprobs) -> PyResult<Py<PyAny>> {
    let columns = (floats(py, scores.logprobs)?, top(py, scores.top)?);
    make(record!(py, "PromptLogprobs")?, columns)
}

/// A ``Completion``, whose attributes come in the order of the class.
fn completion(
    py: Python<'_>,
    decoded: Decoded,
    prompt: &PromptArrays,
    out: &mut Option<ExpertsOut<'_>>,
) -> PyResult<Py<PyAny>> {
    let mut fields = [const { None }; ATTRIBUTES];
    for (field, (_, value)) in fields.iter_mut().zip(decoded.into_attributes()) {
        *field = value
            .map(|value| attribute(py, value, prompt, out))
            .transpose()?;
    }
    make(record!(py, "Completion")?, PyTuple::new(py, fields)?)
}

/// An attribute by its form. Those of the prompt are made already.
fn attribute(
    py: Python<'_>,
    value: Attribute,
    prompt: &PromptArrays,
    out: &mut Option<ExpertsOut<'_>>,
) -> PyResult<Py<PyAny>> {
    match value {
        Attribute::Ids(ids) => flat(py, ids),
        Attribute::Logprobs(logprobs) => floats(py, logprobs),
        Attribute::Top(list) => top(py, list),
        Attribute::Rows(mask) => rows(py, mask),
        Attribute::PromptIds(_) => Ok(prompt.token_ids.clone_ref(py)),
        Attribute::PromptLogprobs(_) => Ok(prompt.logprobs.clone_ref(py)),
        Attribute::PromptMatrix(_) => Ok(prompt.token_id_logprobs.clone_ref(py)),
        Attribute::Experts(routed) => routed_experts(py, routed, out.take()),
        Attribute::Indexer(routed) => indexer_topk(py, routed),
        Attribute::Text(text) | Attribute::Stop(StopReason::Text(text)) => {
            Ok(PyString::new(py, &text).into_any().unbind())
        }
        Attribute::Stop(StopReason::Token(token)) => Ok(PyInt::new(py, token).into_any().unbind()),
        Attribute::Flag(flag) => Ok(PyBool::new(py, flag).to_owned().into_any().unbind()),
        Attribute::Index(index) => Ok(PyInt::new(py, index).into_any().unbind()),
        Attribute::Json(value) => json(py, &value),
        Attribute::Sources(list) => sources(py, &list),
    }
}

fn floats(py: Python<'_>, values: Floats) -> PyResult<Py<PyAny>> {
    match values {
        Floats::F64(values) => flat(py, values),
        Floats::F32(values) => flat(py, values),
    }
}

fn top(py: Python<'_>, top: TopLogprobs) -> PyResult<Py<PyAny>> {
    let columns = (
        flat(py, top.token_ids)?,
        floats(py, top.logprobs)?,
        flat(py, top.offsets)?,
    );
    make(record!(py, "TopLogprobs")?, columns)
}

fn rows(py: Python<'_>, mask: SamplingMask) -> PyResult<Py<PyAny>> {
    let columns = (flat(py, mask.token_ids)?, flat(py, mask.offsets)?);
    make(record!(py, "SamplingMask")?, columns)
}

fn routed_experts(
    py: Python<'_>,
    routed: Routed,
    out: Option<ExpertsOut<'_>>,
) -> PyResult<Py<PyAny>> {
    let shape = routed.shape;
    let array = match (routed.values, out) {
        (ExpertIds::U8(values), _) => shaped(py, values, shape)?,
        (ExpertIds::U16(values), _) => shaped(py, values, shape)?,
        (ExpertIds::I16(values), _) => shaped(py, values, shape)?,
        (ExpertIds::I32(values), _) => shaped(py, values, shape)?,
        (ExpertIds::Written, Some(out)) => out.view(shape)?,
        (ExpertIds::Written, None) => unreachable!("written into the caller's array"),
    };
    make(
        record!(py, "RoutedExperts")?,
        (
            array,
            routed.start,
            routed.dtype.name(),
            routed.complete,
            routed.dropped,
        ),
    )
}

/// An ``IndexerTopk``, whose values have memory of their own.
fn indexer_topk(py: Python<'_>, routed: Routed) -> PyResult<Py<PyAny>> {
    let ExpertIds::I32(values) = routed.values else {
        unreachable!("an indexer's rows are int32");
    };
    let array = shaped(py, values, routed.shape)?;
    make(
        record!(py, "IndexerTopk")?,
        (array, routed.start, routed.complete),
    )
}

/// A read-only mapping from the names of arrays to their channels.
fn sources(py: Python<'_>, sources: &[(&'static str, String)]) -> PyResult<Py<PyAny>> {
    static PROXY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let dict = PyDict::new(py);
    for (name, channel) in sources {
        dict.set_item(name, channel)?;
    }
    Ok(PROXY
        .import(py, "types", "MappingProxyType")?
        .call1((dict,))?
        .unbind())
}

fn json(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(match value {
        Value::Null => py.None(),
        Value::Bool(b) => PyBool::new(py, *b).to_owned().into_any().unbind(),
        Value::Int(i) => PyInt::new(py, *i).into_any().unbind(),
        Value::Uint(u) => PyInt::new(py, *u).into_any().unbind(),
        Value::Float(f) => PyFloat::new(py, *f).into_any().unbind(),
        Value::Text(text) => PyString::new(py, text).into_any().unbind(),
        Value::List(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(json(py, item)?)?;
            }
            list.into_any().unbind()
        }
        Value::Map(members) => {
            let dict = PyDict::new(py);
            for (key, member) in members {
                dict.set_item(key, json(py, member)?)?;
            }
            dict.into_any().unbind()
        }
    })
}
