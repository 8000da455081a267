"""Counters and spans of the clients' calls over OpenTelemetry's API (extra ``dynamo-tito[otel]``).

Names are those of the semantic conventions for generative AI (1.43, in development) where they have one, else they
begin with ``dynamo_tito``. ``docs/observability.md`` lists all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _observe
from ._native import build_info, memory_stats

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from opentelemetry.metrics import Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider

    from ._observe import CallRecord

_SCOPE = "dynamo_tito"
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68, 1310.72]
_TOKENS = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864]

# Sampling from token ids is a completion; the conventions know no name for scoring.
_OPERATIONS = {"generate": "text_completion", "score": "score"}

_OURS = "dynamo_tito.client."
_COUNTERS = (
    ("requests", "{request}", "Requests that were sent"),
    ("retries", "{request}", "Requests that were sent again"),
    ("sent", "By", "Bodies of requests"),
    ("received", "By", "Bodies of answers, decompressed"),
    ("decode.time", "s", "Decoding of answers"),
    ("refusals", "{answer}", "Answers that could not be read"),
    ("missing_logprobs", "{token}", "Tokens of which the server said that it has no log-probability"),
    ("trimmed_rows", "{row}", "Rows of routed experts in front of those that were asked for"),
    ("sampled_tokens", "{token}", "Tokens by the weight version that sampled them"),
    ("interrupted", "{call}", "Calls that were broken off after they were sent"),
    ("kept", "{call}", "Interrupted calls of which the completion so far was kept"),
    ("resumed", "{call}", "Requests for the rest of a turn that was cut"),
)

_turn = threading.Lock()
"""Held by the thread that instruments the process."""

Key: TypeAlias = tuple[str, str, str, str | None, str, int | None]
"""What the calls of one series have in common."""


class _Totals(dict[tuple[Key | None, str, str | int | None], float]):
    """A counter: sums by key and one more attribute. OpenTelemetry reads it when it collects."""

    def add(self, amount: float, key: Key | None, name: str = "", more: str | int | None = None) -> None:
        """Add, under the lock of the whole."""
        at = (key, name, more)
        self[at] = self.get(at, 0) + amount


def instrument(
    *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Instrumentation:
    """Count the calls of every client of this process, and trace them.

    Calls that begin later are seen. A call that is sampled carries its trace context to the server.

    Example::

        with tito.instrument(meter_provider=MeterProvider(metric_readers=[PrometheusMetricReader()])):
            ...

    Args:
        meter_provider: where counters and histograms go; None for the global provider.
        tracer_provider: where spans go; None for the global provider.

    Returns:
        The handle that undoes it: :meth:`Instrumentation.uninstrument`, or leaving it as a context manager.

    Raises:
        ModuleNotFoundError: the extra ``dynamo-tito[otel]`` is missing.
        RuntimeError: the process is instrumented already.
    """
    try:
        from opentelemetry import metrics, propagate, trace  # noqa: PLC0415 - the extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "instrument() needs the extra: pip install 'dynamo-tito[otel]'", name=error.name
        ) from error
    with _turn:
        if _observe.observer is not None:
            raise RuntimeError(
                "the calls are counted already: call uninstrument() of the handle that instrument() returned"
            )
        version = build_info()["version"]
        meter = metrics.get_meter(_SCOPE, version, meter_provider)
        handle = Instrumentation(meter, trace.get_tracer(_SCOPE, version, tracer_provider), trace, propagate)
        _observe.observer = handle
    return handle


class Instrumentation:
    """What :func:`instrument` returns. Its other methods are for the clients."""

    def __init__(self, meter: Meter, tracer: Any, trace: Any, propagate: Any) -> None:
        self._tracer, self._trace, self._propagate = tracer, trace, propagate
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Calls, from their begin to their end",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Streams, from the request to the first token",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of prompts and completions",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._counters = {name: _Totals() for name, _, _ in _COUNTERS}
        self._active = _Totals()
        self._facts: dict[Key, dict[str, Any]] = {}
        # One lock for all: threads share clients, and `+=` is not one step. The collector may end a stream that was
        # dropped while this thread holds the lock.
        self._lock = threading.RLock()
        for name, unit, text in _COUNTERS:
            meter.create_observable_counter(_OURS + name, [self._reading(self._counters[name])], unit, text)
        meter.create_observable_up_down_counter(
            f"{_OURS}active_calls", [self._reading(self._active)], "{call}", "Calls under way"
        )
        meter.create_observable_counter(
            "dynamo_tito.pool.requests",
            [self._pool_requests],
            "{block}",
            "Blocks for arrays, reused (hit) or new (miss)",
        )
        meter.create_observable_gauge(
            "dynamo_tito.pool.held", [self._pool_held], "By", "Free memory that the pool holds"
        )

    def uninstrument(self) -> None:
        """Count no more. Calls under way are counted to their end; the numbers so far stay with their provider."""
        if _observe.observer is self:
            _observe.observer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstrument()

    def began(self, call: CallRecord) -> Mapping[str, str]:
        """A call begins. The headers carry its trace context."""
        key = (call.operation, call.provider, call.wire, call.model, call.address, call.port)
        facts = self._facts.get(key)
        if facts is None:
            facts = self._facts.setdefault(key, _facts(call))
        with self._lock:
            self._active.add(1, key)
        span = self._tracer.start_span(
            f"{facts['gen_ai.operation.name']} {call.model or ''}".rstrip(),
            kind=self._trace.SpanKind.CLIENT,
            attributes=facts,
        )
        call.state = key, facts, span
        if not span.is_recording():
            return {}
        headers: dict[str, str] = {}
        self._propagate.inject(headers, context=self._trace.set_span_in_context(span))
        return {name.lower(): value for name, value in headers.items()}

    def ended(self, call: CallRecord) -> None:
        """A call ended."""
        key, facts, span = call.state
        counters = self._counters
        with self._lock:
            self._active.add(-1, key)
            counters["sent"].add(call.sent, key)
            counters["received"].add(call.received, key)
            counters["decode.time"].add(call.decode_seconds, key)
            for status, count in call.statuses.items():
                counters["requests"].add(
                    count, key, "http.response.status_code", int(status) if status != "none" else None
                )
            for cause, count in call.retries.items():
                counters["retries"].add(count, key, "error.type", cause)
            if call.refusal is not None:
                counters["refusals"].add(1, key, "dynamo_tito.refusal.kind", call.refusal)
            if call.interrupted:
                counters["interrupted"].add(1, key, "error.type", call.error)
        self._duration.record(call.seconds, facts if call.error is None else {**facts, "error.type": call.error})
        if "200" in call.statuses:
            self._tokens.record(call.prompt_tokens, {**facts, "gen_ai.token.type": "input"})
        self._sampled(call)
        self._end(span, call)

    def kept(self, call: CallRecord) -> None:
        """An interrupted call has a completion after all."""
        with self._lock:
            self._counters["kept"].add(1, call.state[0])
        self._sampled(call)

    def resumed(self) -> None:
        """A rollout asks for the rest of a turn."""
        with self._lock:
            self._counters["resumed"].add(1, None)

    def _sampled(self, call: CallRecord) -> None:
        sampled, (key, facts, _) = call.sampled, call.state
        if sampled is None:
            return
        counters = self._counters
        with self._lock:
            counters["missing_logprobs"].add(sampled.missing, key)
            for who, rows in sampled.trimmed.items():
                counters["trimmed_rows"].add(rows, key, "dynamo_tito.trimmed_by", who)
            for version, tokens in sampled.versions.items():
                counters["sampled_tokens"].add(tokens, key, "dynamo_tito.weight_version", version)
        if call.operation == "generate":
            self._tokens.record(sampled.tokens, {**facts, "gen_ai.token.type": "output"})
        if sampled.first_token is not None:
            self._first.record(sampled.first_token, facts)

    def _reading(self, totals: _Totals) -> Callable[[object], Iterable[Observation]]:
        """What OpenTelemetry asks when it collects."""

        def read(_: object) -> Iterable[Observation]:
            with self._lock:
                found = list(totals.items())
            return [
                _observed(value, {**(self._facts[key] if key else {}), **({name: more} if more is not None else {})})
                for (key, name, more), value in found
            ]

        return read

    def _end(self, span: Any, call: CallRecord) -> None:
        if span.is_recording():
            found: dict[str, Any] = {
                "gen_ai.usage.input_tokens": call.prompt_tokens,
                "dynamo_tito.retries": sum(call.retries.values()),
                "dynamo_tito.received": call.received,
            }
            if (sampled := call.sampled) is not None:
                found |= {"gen_ai.usage.output_tokens": sampled.tokens}
                named = {
                    "gen_ai.response.id": sampled.request_id,
                    "gen_ai.response.finish_reasons": sampled.finish_reason and [sampled.finish_reason],
                    "gen_ai.response.time_to_first_chunk": sampled.first_token,
                    "dynamo_tito.weight_version": [*sampled.versions] or None,
                }
                span.set_attributes({name: value for name, value in named.items() if value is not None})
            if call.error is not None:
                found |= {"error.type": call.error}
                span.set_status(self._trace.StatusCode.ERROR)
            if call.refusal is not None:
                found |= {"dynamo_tito.refusal.kind": call.refusal}
            span.set_attributes(found)
        span.end()

    def _pool_requests(self, _: object) -> Iterable[Observation]:
        stats = self._pool()
        return [
            _observed(stats[name], {"dynamo_tito.pool.result": result})
            for name, result in (("reused", "hit"), ("allocated", "miss"))
            if stats
        ]

    def _pool_held(self, _: object) -> Iterable[Observation]:
        stats = self._pool()
        return [_observed(stats["held_bytes"], {})] if stats else []

    def _pool(self) -> dict[str, int]:
        return memory_stats() if _observe.observer is self else {}


def _facts(call: CallRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS[call.operation],
        "gen_ai.provider.name": call.provider,
        "server.address": call.address,
        "dynamo_tito.wire": call.wire,
    }
    if call.model is not None:
        found["gen_ai.request.model"] = call.model
    if call.port is not None:
        found["server.port"] = call.port
    return found


def _observed(value: float, facts: Mapping[str, Any]) -> Observation:
    """One reading of an observable instrument."""
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - the extra, which is there once this is called

    return Observation(value, facts)
