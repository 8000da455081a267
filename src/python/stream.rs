//! Streamed answers in Python.

use std::sync::{Mutex, MutexGuard, TryLockError};

use numpy::{Element, PyArray1};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyInt, PyMemoryView, PyString, PyType};

use super::arguments::kind;
use super::completion::{Keywords, completions, lend, record};
use super::errors::exception;
use super::fill::filled;
use crate::error::Result;
use crate::wire::Decoded;
use crate::{LogprobsDtype, Options, StreamDelta, StreamTop};

/// Bytes from which on the GIL is released while they are read.
const DETACHED_FROM: usize = 16 << 10;

/// Decodes a streamed answer (server-sent events) while it arrives.
///
/// ``feed`` takes the bytes as they come, cut anywhere, and returns what they brought: a ``StreamDelta`` with the new tokens as
/// arrays, or None. ``finish`` returns the same ``Completion`` that ``decode`` makes of the unary answer to the same request.
/// ``abandon`` returns what is whole so far of a stream that was interrupted: ``aborted``, and not ``complete`` where the
/// choice had not ended. Arguments are those of ``decode``; with ``deltas=False`` no delta is made. ``feed_choices``, ``finish_choices``
/// and ``abandon_choices`` take a stream of several choices.
///
/// Raises what ``decode`` raises. The path of an error in a chunk begins with ``events[k]``, its number from 0, and the
/// offset counts from the beginning of the stream. A decoder that has refused raises the same error again;
/// ``MalformedBodyError`` of the kind ``unfinished_stream`` says that the stream may go on, and after a ``ServerError``
/// in the stream ``abandon`` returns what came before it. A decoder that has finished raises ValueError. One thread at a time may use it,
/// else RuntimeError. The GIL is released for feeds of 16 KiB and more.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct StreamDecoder {
    state: Mutex<State>,
}

struct State {
    decoder: crate::StreamDecoder,
    options: Options<'static>,
    deltas: bool,
    experts_out: Option<Py<PyAny>>,
}

impl StreamDecoder {
    /// Never waits: another thread may hold the lock for as long as it reads.
    fn lock(&self) -> PyResult<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "the StreamDecoder is in use by another thread",
            )),
            Err(TryLockError::Poisoned(_)) => Err(PyRuntimeError::new_err(
                "the StreamDecoder cannot be used any more: it has panicked",
            )),
        }
    }

    /// Reads what was fed; `deltas` gets what is new.
    fn read<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        several: bool,
        mut deltas: impl FnMut(Py<PyAny>),
    ) -> PyResult<()> {
        let py = data.py();
        let copy;
        let data = match data.cast::<PyBytes>() {
            Ok(bytes) => bytes,
            Err(_) => {
                let expected = || {
                    let found = kind(data);
                    PyTypeError::new_err(format!("data must be bytes-like, not {found}"))
                };
                let view = PyMemoryView::from(data).map_err(|_| expected())?;
                let bytes = view.call_method0("tobytes")?;
                copy = bytes.cast_into::<PyBytes>().map_err(|_| expected())?;
                &copy
            }
        };
        let mut state = self.lock()?;
        let state = &mut *state;
        let out = state.experts_out.as_ref().map(|out| out.bind(py));
        let mut out = lend(out, &state.options)?;
        let memory = out.as_mut().map(|out| out.memory()).transpose()?;
        let bytes = data.as_bytes();
        let decoder = &mut state.decoder;
        let read = match bytes.len() + decoder.held() {
            DETACHED_FROM.. => py.detach(|| decoder.feed_into(bytes, several, memory)),
            _ => decoder.feed_into(bytes, several, memory),
        };
        read.map_err(|error| exception(py, &error, decoder.error_body()))?;
        let mut made = Ok(());
        if state.deltas {
            decoder.deltas(|delta| {
                if made.is_ok() {
                    made = record_of(py, delta, state.options.logprobs_dtype).map(&mut deltas);
                }
            });
        }
        made
    }

    /// Ends the stream with one of its endings.
    fn end(
        &self,
        py: Python<'_>,
        end: impl FnOnce(&mut crate::StreamDecoder) -> Result<Vec<Decoded>> + Send,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let mut state = self.lock()?;
        let state = &mut *state;
        let out = state.experts_out.as_ref().map(|out| out.bind(py));
        let out = lend(out, &state.options)?;
        let decoder = &mut state.decoder;
        let decoded = py.detach(|| end(decoder));
        let decoded = decoded.map_err(|error| exception(py, &error, decoder.error_body()))?;
        completions(py, decoded, out)
    }
}

#[pymethods]
impl StreamDecoder {
    #[new]
    #[pyo3(signature = (*, wire, prompt_len=None, prompt_token_ids=None, routed_experts_prompt_start=None,
        num_layers=None, top_k=None, num_indexer_layers=None, index_topk=None, experts="int32", experts_out=None,
        require_logprobs=true, require_routed_experts=false, missing_logprob="raise", logprobs_dtype="float64",
        final_row="omitted",
        limits=None, deltas=true))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        wire: &str,
        prompt_len: Option<&Bound<'_, PyAny>>,
        prompt_token_ids: Option<&Bound<'_, PyAny>>,
        routed_experts_prompt_start: Option<&Bound<'_, PyAny>>,
        num_layers: Option<&Bound<'_, PyAny>>,
        top_k: Option<&Bound<'_, PyAny>>,
        num_indexer_layers: Option<&Bound<'_, PyAny>>,
        index_topk: Option<&Bound<'_, PyAny>>,
        experts: &str,
        experts_out: Option<&Bound<'_, PyAny>>,
        require_logprobs: bool,
        require_routed_experts: bool,
        missing_logprob: &str,
        logprobs_dtype: &str,
        final_row: &str,
        limits: Option<&Bound<'_, PyAny>>,
        deltas: bool,
    ) -> PyResult<Self> {
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
        lend(experts_out, &options)?;
        if !options.wire.streams() {
            return Err(PyValueError::new_err(format!(
                "no streamed answer of the wire {wire:?} is read"
            )));
        }
        let decoder = crate::StreamDecoder::new(&options);
        let state = State {
            decoder,
            options: options.detached(),
            deltas,
            experts_out: experts_out.map(|out| out.clone().unbind()),
        };
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// Reads ``data``, bytes or bytes-like. Returns the new tokens of the choice, None where there are none and the choice
    /// has not ended.
    #[pyo3(signature = (data, /))]
    fn feed(&self, data: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let mut found = None;
        self.read(data, false, |delta| found = Some(delta))?;
        Ok(found)
    }

    /// Reads ``data`` of a stream of several choices. Returns a delta for each choice with new tokens or with an end.
    #[pyo3(signature = (data, /))]
    fn feed_choices(&self, data: &Bound<'_, PyAny>) -> PyResult<Vec<Py<PyAny>>> {
        let mut found = Vec::new();
        self.read(data, true, |delta| found.push(delta))?;
        Ok(found)
    }

    /// The completion of a stream that has ended.
    fn finish(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut all = self.end(py, |decoder| decoder.finish().map(|one| vec![one]))?;
        Ok(all.remove(0))
    }

    /// The completions of a stream that has ended, by index.
    fn finish_choices(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.end(py, crate::StreamDecoder::finish_choices)
    }

    /// What is whole so far. Where the choice had not ended, the completion is aborted and not complete.
    fn abandon(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut all = self.end(py, |decoder| decoder.abandon().map(|one| vec![one]))?;
        Ok(all.remove(0))
    }

    /// What is whole so far of each choice that came, by index.
    fn abandon_choices(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.end(py, crate::StreamDecoder::abandon_choices)
    }

    /// Whether the end of the stream, ``[DONE]``, was read.
    #[getter]
    fn done(&self) -> PyResult<bool> {
        Ok(self.lock()?.decoder.done())
    }

    /// Sampled tokens so far, of all choices.
    #[getter]
    fn tokens(&self) -> PyResult<usize> {
        Ok(self.lock()?.decoder.tokens())
    }

    fn __repr__(&self) -> String {
        let Ok(state) = self.lock() else {
            return "<StreamDecoder: in use>".into();
        };
        let (tokens, done) = (state.decoder.tokens(), state.decoder.done());
        format!(
            "<StreamDecoder: {tokens} tokens{}>",
            if done { ", done" } else { "" }
        )
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "cannot pickle a StreamDecoder: it is half of a stream",
        ))
    }
}

/// The record of a delta.
fn record_of(py: Python<'_>, delta: StreamDelta<'_>, dtype: LogprobsDtype) -> PyResult<Py<PyAny>> {
    let none = || py.None().into_bound(py);
    let logprobs = delta.logprobs.map(|values| floats(py, &values, dtype));
    let top = delta
        .top_logprobs
        .map(|top| top_of(py, &top, dtype))
        .transpose()?;
    let reason = delta
        .finish_reason
        .map(|reason| PyString::new(py, reason).into_any());
    let fields = [
        (intern!(py, "index"), PyInt::new(py, delta.index).into_any()),
        (intern!(py, "start"), PyInt::new(py, delta.start).into_any()),
        (intern!(py, "token_ids"), array(py, delta.token_ids)),
        (intern!(py, "logprobs"), logprobs.unwrap_or_else(none)),
        (intern!(py, "top_logprobs"), top.unwrap_or_else(none)),
        (intern!(py, "finish_reason"), reason.unwrap_or_else(none)),
    ];
    filled(record!(py, "StreamDelta")?, fields)
}

fn array<'py, T: Element>(py: Python<'py>, items: &[T]) -> Bound<'py, PyAny> {
    PyArray1::from_slice(py, items).into_any()
}

/// Values in the wanted type; NaN for one that float32 does not have, which the end of the stream refuses.
fn floats<'py>(py: Python<'py>, values: &[f64], dtype: LogprobsDtype) -> Bound<'py, PyAny> {
    if dtype == LogprobsDtype::Float64 {
        return array(py, values);
    }
    let narrow = values.iter().map(|&value| match value as f32 {
        narrow if narrow.is_infinite() => f32::NAN,
        narrow => narrow,
    });
    PyArray1::from_iter(py, narrow).into_any()
}

fn top_of<'py>(
    py: Python<'py>,
    top: &StreamTop<'_>,
    dtype: LogprobsDtype,
) -> PyResult<Bound<'py, PyAny>> {
    let first = top.offsets[0];
    let offsets = PyArray1::from_iter(py, top.offsets.iter().map(|at| at - first));
    let fields = [
        (intern!(py, "token_ids"), array(py, top.token_ids)),
        (intern!(py, "logprobs"), floats(py, top.logprobs, dtype)),
        (intern!(py, "offsets"), offsets.into_any()),
    ];
    Ok(filled(record!(py, "TopLogprobs")?, fields)?.into_bound(py))
}
