"""Instrumented calls, and what was counted of them."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, TypeAlias

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dynamo_tito as tito
from dynamo_tito.simulator import Engine, Record

Facts: TypeAlias = dict[str, Any]

OURS = "dynamo_tito.client"


class Meters:
    """Instrumented calls, and what was counted of them.

    Args:
        each: tell each call, as a span and in histograms, beside the counters.
    """

    def __init__(self, *, each: bool = False) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider(metric_readers=[self._reader])
        self.handle = tito.instrument(meter_provider=meters, tracer_provider=tracers if each else None, histograms=each)
        self._close = meters.shutdown

    def close(self) -> None:
        self.handle.uninstrument()
        self._close()

    @property
    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def points(self) -> dict[str, list[tuple[Facts, Any]]]:
        """By name: the attributes and the value, or the histogram's point."""
        found: dict[str, list[tuple[Facts, Any]]] = defaultdict(list)
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "dynamo_tito"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        found[metric.name].append((dict(point.attributes), point))
        return found

    def total(self, name: str, **wanted: Any) -> int:
        """The sum over the points whose attributes, dots written as underscores, have these values."""
        points = self.points()[name]
        return sum(
            point.sum if hasattr(point, "sum") else point.value
            for facts, point in points
            if all(str(facts.get(key.replace("__", "."))) == str(value) for key, value in wanted.items())
        )


def settled(engine: Engine) -> list[Record]:
    """The engine's record, once it has seen the end of every request."""
    ends = time.monotonic() + 60
    while any(record.outcome is None for record in engine.requests) and time.monotonic() < ends:
        time.sleep(0.001)
    return engine.requests
