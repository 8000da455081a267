"""Which providers are told of the clients' calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dynamo_tito import _observe
from dynamo_tito._native import CallSums, build_info, memory_stats

from .each import Histograms, Spans, WatchedKind
from .metrics import ACTIVE, COUNTERS, SECONDS, TOKENS, facts_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from opentelemetry.metrics import Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider

    from dynamo_tito._observe import CallKind, Target

    from .metrics import Metric

_SCOPE = "dynamo_tito"
_OURS = "dynamo_tito.client."

_turn = threading.Lock()
"""Held by the thread that instruments the process."""


def instrument(
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    histograms: bool = False,
) -> Instrumentation:
    """Count the calls of every client of this process, and trace them.

    Calls that begin later are seen. A call that is sampled carries its trace context to the server.

    Example::

        with tito.instrument(meter_provider=MeterProvider(metric_readers=[PrometheusMetricReader()])):
            ...

    Args:
        meter_provider: where counters and histograms go; None for the global provider.
        tracer_provider: where spans go; None for no spans. ``opentelemetry.trace.get_tracer_provider()`` is the global
            provider, also if it is set later.
        histograms: record the histograms of the conventions too. The counters tell the same distributions, in buckets,
            and cost a call next to nothing; three recordings in the SDK cost it ten times as much.

    Returns:
        The handle that undoes it: :meth:`Instrumentation.uninstrument`, or leaving it as a context manager.

    Raises:
        ModuleNotFoundError: the extra ``dynamo-tito[otel]`` is missing.
        RuntimeError: the process is instrumented already.
    """
    try:
        from opentelemetry import metrics  # noqa: PLC0415 - the extra
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
        spans = None if tracer_provider is None else Spans(_SCOPE, version, tracer_provider)
        handle = Instrumentation(meter, spans, Histograms(meter) if histograms else None)
        _observe.observer = handle
    return handle


class Instrumentation:
    """What :func:`instrument` returns. Its other methods are for the clients."""

    def __init__(self, meter: Meter, spans: Spans | None, histograms: Histograms | None) -> None:
        self._spans, self._histograms = spans, histograms
        self._sums: dict[Target, CallSums] = {}
        self._resumed = 0
        self._lock = threading.Lock()
        for metric in COUNTERS:
            meter.create_observable_counter(_OURS + metric.name, [self._reading(metric)], metric.unit, metric.text)
        meter.create_observable_up_down_counter(_OURS + ACTIVE.name, [self._reading(ACTIVE)], ACTIVE.unit, ACTIVE.text)
        meter.create_observable_counter(
            f"{_OURS}resumed", [self._read_resumed], "{call}", "Requests for the rest of a turn that was cut"
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

    def kind(self, target: Target) -> CallKind:
        """The calls of this target."""
        # Of the threads that come first, one makes the sums.
        sums = self._sums.get(target) or self._sums.setdefault(target, CallSums(SECONDS, TOKENS))
        if self._spans is None and self._histograms is None:
            return sums
        return WatchedKind(sums, target, self._spans, self._histograms)

    def resumed(self) -> None:
        """A rollout asks for the rest of a turn."""
        with self._lock:
            self._resumed += 1

    def _reading(self, metric: Metric) -> Callable[[object], Iterable[Observation]]:
        """What OpenTelemetry asks when it collects."""

        def read(_: object) -> Iterator[Observation]:
            for target, sums in self._sums.copy().items():
                facts = facts_of(target)
                for more, value in metric.read(sums.read()):
                    yield _observed(value, {**facts, **more})

        return read

    def _read_resumed(self, _: object) -> Iterable[Observation]:
        return [_observed(self._resumed, {})]

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


def _observed(value: float, facts: Mapping[str, Any]) -> Observation:
    """One reading of an observable instrument."""
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - the extra, which is there once this is called

    return Observation(value, facts)
