//! What is counted of calls: each adds its steps to the sums of its kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

type Counts<K> = BTreeMap<K, u64>;

/// How many values fell between two bounds, and the sum of all.
#[derive(Clone, IntoPyObject)]
struct Distribution {
    counts: Vec<u64>,
    sum: f64,
}

impl Distribution {
    fn new(bounds: &[f64]) -> Self {
        Self {
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// A bound belongs to the values below it.
    fn add(&mut self, bounds: &[f64], value: f64) {
        self.counts[bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }
}

#[derive(Clone, IntoPyObject)]
struct Sums {
    active: i64,
    sent: u64,
    received: u64,
    decoding: f64,
    missing: u64,
    kept: u64,
    trimmed: Trimmed,
    requests: Counts<Option<u16>>,
    retries: Counts<String>,
    refusals: Counts<String>,
    interrupted: Counts<Option<String>>,
    versions: Counts<String>,
    durations: BTreeMap<Option<String>, Distribution>,
    first_token: Distribution,
    tokens: Tokens,
}

/// Rows of routed experts that were not asked for, by who left them out.
#[derive(Clone, Default, IntoPyObject)]
struct Trimmed {
    client: u64,
    server: u64,
}

#[derive(Clone, IntoPyObject)]
struct Tokens {
    input: Distribution,
    output: Distribution,
}

/// Sums over the calls of one kind: ``CallSums(seconds, tokens)``, the upper bounds of the buckets of both.
///
/// ``read`` returns them as a dict. Any thread may read, while others call.
#[pyclass(frozen, module = "dynamo_tito")]
pub(super) struct CallSums {
    seconds: Vec<f64>,
    tokens: Vec<f64>,
    sums: Mutex<Sums>,
}

#[pymethods]
impl CallSums {
    #[new]
    #[pyo3(signature = (seconds, tokens, /))]
    fn new(seconds: Vec<f64>, tokens: Vec<f64>) -> Self {
        let sums = Sums {
            active: 0,
            sent: 0,
            received: 0,
            decoding: 0.0,
            missing: 0,
            kept: 0,
            trimmed: Trimmed::default(),
            requests: Counts::new(),
            retries: Counts::new(),
            refusals: Counts::new(),
            interrupted: Counts::new(),
            versions: Counts::new(),
            durations: BTreeMap::new(),
            first_token: Distribution::new(&seconds),
            tokens: Tokens {
                input: Distribution::new(&tokens),
                output: Distribution::new(&tokens),
            },
        };
        Self {
            seconds,
            tokens,
            sums: Mutex::new(sums),
        }
    }

    /// A call begins: ``CallRecord(self, prompt_tokens)``.
    #[pyo3(signature = (prompt_tokens, /))]
    fn begin(slf: Bound<'_, Self>, prompt_tokens: u64) -> CallRecord {
        CallRecord::new(slf.unbind(), prompt_tokens)
    }

    /// All sums by name.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let sums = self.lock().clone();
        Ok(sums.into_pyobject(py)?.into_any())
    }
}

impl CallSums {
    /// Nothing runs Python while it is held.
    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, sums: &mut Sums, sampled: &Sampled) {
        sums.missing += sampled.missing;
        sums.tokens.output.add(&self.tokens, sampled.tokens as f64);
        sums.trimmed.client += sampled.trimmed.client;
        sums.trimmed.server += sampled.trimmed.server;
        for (version, tokens) in &sampled.versions {
            match sums.versions.get_mut(version) {
                Some(sum) => *sum += tokens,
                None => _ = sums.versions.insert(version.clone(), *tokens),
            }
        }
        if let Some(seconds) = sampled.first_token {
            sums.first_token.add(&self.seconds, seconds);
        }
    }
}

/// A request that was sent, and its answer if there was one; the sizes are those of the bodies.
struct Exchange {
    status: Option<u16>,
    sent: u64,
    received: u64,
}

impl Sums {
    fn exchanged(&mut self, exchange: &Exchange) {
        self.sent += exchange.sent;
        self.received += exchange.received;
        *self.requests.entry(exchange.status).or_default() += 1;
    }
}

/// One completion in numbers.
struct Sampled {
    tokens: usize,
    missing: u64,
    trimmed: Trimmed,
    versions: Vec<(String, u64)>,
    first_token: Option<f64>,
}

impl Sampled {
    fn of(completion: &Bound<'_, PyAny>, start: u64, missing: u64) -> PyResult<Self> {
        let py = completion.py();
        let tokens = completion.getattr(intern!(py, "token_ids"))?.len()?;
        let mut found = Self {
            tokens,
            missing,
            trimmed: Trimmed::default(),
            versions: Vec::new(),
            first_token: None,
        };
        let rows = completion.getattr(intern!(py, "routed_experts"))?;
        if !rows.is_none() {
            let client = rows.getattr(intern!(py, "trimmed"))?.extract()?;
            let server = start.saturating_sub(client);
            found.trimmed = Trimmed { client, server };
        }
        let versions = completion.getattr(intern!(py, "weight_versions"))?;
        if !versions.is_none() {
            found.versions = versions
                .try_iter()?
                .map(|span| of_version(&span?, tokens as u64))
                .collect::<PyResult<_>>()?;
        }
        let timing = completion.getattr(intern!(py, "timing"))?;
        if !timing.is_none() {
            found.first_token = timing.getattr(intern!(py, "first_token"))?.extract()?;
        }
        Ok(found)
    }
}

/// A weight version and the tokens that it sampled; a label without positions is of all of them.
fn of_version(span: &Bound<'_, PyAny>, tokens: u64) -> PyResult<(String, u64)> {
    let (py, span) = (span.py(), span.cast::<PyDict>()?);
    let position = |name, default| {
        span.get_item(name)?
            .map_or(Ok(default), |value| value.extract::<u64>())
    };
    let start = position(intern!(py, "start"), 0)?;
    let end = position(intern!(py, "end"), tokens)?;
    let version = match span.get_item(intern!(py, "version"))? {
        Some(label) => label.str()?.to_string(),
        None => String::new(),
    };
    Ok((version, end.saturating_sub(start)))
}

/// One call of a kind: ``CallRecord(sums, prompt_tokens)``, which is active until ``sampled``, ``scored`` or ``failed``.
///
/// It adds the steps of the call to the sums. One thread at a time uses it.
#[pyclass(subclass, module = "dynamo_tito")]
pub(super) struct CallRecord {
    sums: Py<CallSums>,
    began: Instant,
    decoding_since: Option<Instant>,
    /// The whole answer that is being decoded. It is added when the call ends, under the same lock.
    whole: Option<Exchange>,
    /// Tokens of the prompt.
    #[pyo3(get)]
    prompt_tokens: u64,
    /// Bytes of the bodies of answers, decompressed.
    #[pyo3(get)]
    received: u64,
    /// From the begin to the end.
    #[pyo3(get)]
    seconds: f64,
    /// How often a request was sent again.
    #[pyo3(get)]
    retries: u32,
    /// Whether a request was sent.
    #[pyo3(get)]
    sent: bool,
    /// Whether one was answered with status 200.
    #[pyo3(get)]
    accepted: bool,
}

#[pymethods]
impl CallRecord {
    #[new]
    #[pyo3(signature = (sums, prompt_tokens, /))]
    fn new(sums: Py<CallSums>, prompt_tokens: u64) -> Self {
        sums.get().lock().active += 1;
        Self {
            sums,
            began: Instant::now(),
            decoding_since: None,
            whole: None,
            prompt_tokens,
            received: 0,
            seconds: 0.0,
            retries: 0,
            sent: false,
            accepted: false,
        }
    }

    /// Headers that are added to its requests: none, unless a subclass sets them. A class attribute is read faster than a getter.
    #[classattr]
    fn headers(py: Python<'_>) -> Py<PyAny> {
        py.None()
    }

    /// A request was sent and answered; the sizes are those of the bodies. Decoding begins with a good answer, if it is
    /// ``whole``.
    #[pyo3(signature = (status, sent, received, whole, /))]
    fn answered(&mut self, status: u16, sent: u64, received: u64, whole: bool) {
        self.accepted |= status == 200;
        self.received += received;
        self.sent = true;
        let exchange = Exchange {
            status: Some(status),
            sent,
            received,
        };
        let known = if whole && (200..300).contains(&status) {
            self.decodes();
            self.whole.replace(exchange)
        } else {
            Some(exchange)
        };
        if let Some(exchange) = known {
            self.sums.get().lock().exchanged(&exchange);
        }
    }

    /// A request was sent, and has no answer.
    #[pyo3(signature = (sent, /))]
    fn unanswered(&mut self, sent: u64) {
        self.sent = true;
        self.sums.get().lock().exchanged(&Exchange {
            status: None,
            sent,
            received: 0,
        });
    }

    /// More of a body came.
    #[pyo3(signature = (received, /))]
    fn arrived(&mut self, received: u64) {
        self.received += received;
        self.sums.get().lock().received += received;
    }

    /// A request is sent again, because of what the one before ended in.
    #[pyo3(signature = (cause, /))]
    fn retried(&mut self, cause: String) {
        self.retries += 1;
        *self.sums.get().lock().retries.entry(cause).or_default() += 1;
    }

    /// Whether an answer is being decoded.
    #[getter]
    fn decoding(&self) -> bool {
        self.decoding_since.is_some()
    }

    /// Decoding begins; it ends with ``decoded``, or with the call.
    fn decodes(&mut self) {
        self.decoding_since = Some(Instant::now());
    }

    /// Decoding paused.
    fn decoded(&mut self) {
        if let Some(since) = self.decoding_since.take() {
            self.sums.get().lock().decoding += since.elapsed().as_secs_f64();
        }
    }

    /// Decoding ended in an error of this kind.
    #[pyo3(signature = (kind, /))]
    fn refused(&mut self, kind: String) {
        *self.sums.get().lock().refusals.entry(kind).or_default() += 1;
    }

    /// The call has a completion, and ends: rows of routed experts were asked for from ``start`` on, and ``missing`` tokens
    /// have no log-probability.
    #[pyo3(signature = (completion, start, missing, /))]
    fn sampled(&mut self, completion: &Bound<'_, PyAny>, start: u64, missing: u64) -> PyResult<()> {
        let sampled = Sampled::of(completion, start, missing)?;
        self.end(None, false, Some(&sampled));
        Ok(())
    }

    /// The call has scores, and ends; ``missing`` tokens have no log-probability.
    #[pyo3(signature = (missing, /))]
    fn scored(&mut self, missing: u64) {
        self.sums.get().lock().missing += missing;
        self.end(None, false, None);
    }

    /// The call ends in an error; ``interrupted`` where it was broken off after it was sent.
    #[pyo3(signature = (error, interrupted, /))]
    fn failed(&mut self, error: String, interrupted: bool) {
        self.end(Some(error), interrupted, None);
    }

    /// The caller gets what came of a call that has failed. Arguments are those of ``sampled``.
    #[pyo3(signature = (completion, start, missing, /))]
    fn kept(&self, completion: &Bound<'_, PyAny>, start: u64, missing: u64) -> PyResult<()> {
        let kept = Sampled::of(completion, start, missing)?;
        let kind = self.sums.get();
        let mut sums = kind.lock();
        sums.kept += 1;
        kind.add(&mut sums, &kept);
        Ok(())
    }
}

impl CallRecord {
    fn end(&mut self, error: Option<String>, interrupted: bool, sampled: Option<&Sampled>) {
        let now = Instant::now();
        self.seconds = (now - self.began).as_secs_f64();
        let kind = self.sums.get();
        let mut sums = kind.lock();
        sums.active -= 1;
        if let Some(exchange) = self.whole.take() {
            sums.exchanged(&exchange);
        }
        if let Some(since) = self.decoding_since.take() {
            sums.decoding += (now - since).as_secs_f64();
        }
        if self.accepted {
            let prompt = self.prompt_tokens as f64;
            sums.tokens.input.add(&kind.tokens, prompt);
        }
        if interrupted {
            *sums.interrupted.entry(error.clone()).or_default() += 1;
        }
        sums.durations
            .entry(error)
            .or_insert_with(|| Distribution::new(&kind.seconds))
            .add(&kind.seconds, self.seconds);
        if let Some(sampled) = sampled {
            kind.add(&mut sums, sampled);
        }
    }
}
