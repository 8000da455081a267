//! The HTTP engine: requests go in with the GIL, answers are taken out with it, and it is free in between.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::body::Body;
use super::errors;
use crate::http::{
    Call, Ceilings, Engine, Head, Mailbox, Next, NotBegun, Proxy, Request, Roots, Trust, Wanted,
    Wiring,
};
use crate::priority;

/// Connections to servers, and the calls that are on their way. Safe to share between threads.
///
/// ``proxy`` is (https, host, port, authorization or None). ``roots`` are the certificates to trust, in DER, or None for
/// the system's. ``verified`` says whether certificates are checked at all, ``named`` whether they must name the host.
/// Times are in seconds, ceilings in bytes.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct NativeEngine {
    engine: Engine,
}

#[pymethods]
impl NativeEngine {
    #[new]
    #[pyo3(signature = (*, connect_timeout, keepalive, max_head, max_body, max_error, proxy, roots, verified, named))]
    #[expect(clippy::too_many_arguments, reason = "keywords")]
    fn new(
        connect_timeout: f64,
        keepalive: f64,
        max_head: u64,
        max_body: u64,
        max_error: u64,
        proxy: Option<(bool, String, u16, Option<String>)>,
        roots: Option<Vec<Vec<u8>>>,
        verified: bool,
        named: bool,
    ) -> PyResult<Self> {
        let roots = match roots {
            Some(these) => Roots::These(these),
            None => Roots::System,
        };
        let wiring = Wiring {
            timeout: seconds("connect_timeout", connect_timeout)?,
            max_head,
            proxy: proxy.map(|(https, host, port, authorization)| Proxy {
                https,
                host,
                port,
                authorization,
            }),
            trust: Trust {
                roots: verified.then_some(roots),
                named,
            },
        };
        let ceilings = Ceilings {
            head: max_head,
            body: max_body,
            error: max_error,
        };
        let engine = Engine::new(wiring, ceilings, seconds("keepalive", keepalive)?);
        Ok(Self { engine })
    }

    /// Begins an exchange. ``mailbox``, if there is one, hears of its end under ``number``; then it may wait for ``flush``.
    ///
    /// Raises ValueError for what cannot be sent, RuntimeError after ``close``, OSError where the process is out of threads
    /// or descriptors.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, without an object for it"
    )]
    fn start(
        &self,
        method: &str,
        url: &str,
        headers: &Bound<'_, PyDict>,
        content: &Bound<'_, PyBytes>,
        decoded: bool,
        expected: usize,
        streamed: bool,
        mailbox: Option<&NativeMailbox>,
        number: u64,
    ) -> PyResult<NativeCall> {
        let mut fields = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            fields.push((
                name.cast_into::<PyString>()?,
                value.cast_into::<PyString>()?,
            ));
        }
        let fields = fields
            .iter()
            .map(|(name, value)| Ok((name.to_str()?, value.to_str()?)))
            .collect::<PyResult<Vec<_>>>()?;
        let wanted = Wanted {
            decoded,
            expected,
            streamed,
        };
        let request = Request::new(
            method,
            url,
            fields.into_iter(),
            content.as_bytes(),
            wanted,
            self.engine.proxy(),
        )
        .map_err(PyValueError::new_err)?;
        // An event loop asks for many exchanges in a turn, and flushes them at its end; a thread waits for its own.
        let at_once = mailbox.is_none();
        let notify = mailbox.map(|mailbox| (Arc::clone(&mailbox.mailbox), number));
        let begun = self.engine.start(request, notify, at_once);
        let call = begun.map_err(|why| match why {
            NotBegun::Closed => PyRuntimeError::new_err("the client is closed"),
            NotBegun::Io(error) => error.into(),
        })?;
        Ok(NativeCall { call, decoded })
    }

    /// Begins the exchanges that were started with a mailbox and wait for others.
    fn flush(&self) -> PyResult<()> {
        Ok(self.engine.flush()?)
    }

    /// Closes every connection; calls on their way fail, and none begins any more. In a forked child it does nothing.
    fn close(&self) {
        self.engine.close();
    }
}

/// A call on its way. Safe to share between threads.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct NativeCall {
    call: Arc<Call>,
    decoded: bool,
}

#[pymethods]
impl NativeCall {
    /// How far it got: ``"connect"``, ``"send"``, ``"headers"`` or ``"body"``.
    #[getter]
    fn phase(&self) -> &'static str {
        self.call.phase().name()
    }

    /// Waits with the GIL released, for so many seconds at most; whether it is over, or there is more of a stream.
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let patience = self::seconds("seconds", seconds)?;
        Ok(py.detach(|| self.call.wait(patience)))
    }

    /// The answer, once: status, headers with names in lower case, and the body as sent, a ``Body`` where it is to be
    /// decoded and bytes elsewhere.
    ///
    /// Raises TransportError if there is none, RuntimeError if the call is not over.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let outcome = self.call.take();
        let outcome = outcome.ok_or_else(|| PyRuntimeError::new_err("the call has no answer"))?;
        let answer = outcome.map_err(|failure| errors::transport(py, &failure))?;
        let headers = headers(py, &answer.head)?;
        let status = answer.head.status;
        let content = match self.decoded && (200..300).contains(&status) {
            true => Bound::new(py, Body::of(answer.body))?.into_any(),
            false => PyBytes::new(py, answer.body.as_slice()).into_any(),
        };
        (status, headers, content).into_pyobject(py)
    }

    /// Status and headers of a stream, once. None if they are not there; then ``next`` says why.
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Option<(u16, Bound<'py, PyDict>)>> {
        let head = self.call.head();
        head.map(|head| Ok((head.status, headers(py, &head)?)))
            .transpose()
    }

    /// The bytes of a stream that have come; empty at its end, None if there are none yet.
    ///
    /// Raises TransportError if it broke off.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        match self.call.next() {
            Next::Bytes(bytes) => Ok(Some(PyBytes::new(py, bytes.as_slice()))),
            Next::Nothing => Ok(None),
            Next::End(Ok(())) => Ok(Some(PyBytes::new(py, b""))),
            Next::End(Err(failure)) => Err(errors::transport(py, &failure)),
        }
    }

    /// Gives it up: its connection is closed. A call that is over stays as it is.
    fn cancel(&self) {
        self.call.cancel();
    }
}

impl Drop for NativeCall {
    fn drop(&mut self) {
        self.call.cancel();
    }
}

/// Where an event loop hears of calls that are over: it watches ``fileno()``, and calls ``drain()`` when that is readable.
#[pyclass(frozen, module = "dynamo_tito")]
pub(crate) struct NativeMailbox {
    mailbox: Arc<Mailbox>,
}

#[pymethods]
impl NativeMailbox {
    /// Raises OSError where the process is out of descriptors.
    #[new]
    fn new() -> PyResult<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        Ok(Self { mailbox })
    }

    /// The descriptor to watch.
    fn fileno(&self) -> i32 {
        self.mailbox.reader().as_raw_fd()
    }

    /// The numbers of the calls that ended since the last time.
    fn drain(&self) -> Vec<u64> {
        self.mailbox.drain()
    }
}

/// Has the calling thread give way to the threads that wait for its work, where the processors are busy.
#[pyfunction]
pub(super) fn give_way() {
    priority::give_way();
}

fn headers<'py>(py: Python<'py>, head: &Head) -> PyResult<Bound<'py, PyDict>> {
    let headers = PyDict::new(py);
    for (name, value) in &head.fields {
        match headers.get_item(name)? {
            None => headers.set_item(name, value)?,
            Some(before) => headers.set_item(name, format!("{before}, {value}"))?,
        }
    }
    Ok(headers)
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    let most = Duration::from_secs(1 << 32);
    match Duration::try_from_secs_f64(value) {
        Ok(duration) => Ok(duration.min(most)),
        Err(_) if value == f64::INFINITY => Ok(most),
        Err(_) => Err(PyValueError::new_err(format!(
            "{name} must be a number of seconds, at least 0"
        ))),
    }
}
