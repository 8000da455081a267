"""What it costs a call to be counted and traced: ``python -m benches.telemetry [rounds]``, in three minutes.

The calls are those of the small answers of ``benches.transport``: the native client, 256 in flight. Every round has a
turn of each way to instrument, in an order of its own, in one process with one client. A collection is timed for
itself: a reader makes one every 15 or 60 seconds, whatever the number of calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

import dynamo_tito as tito
from benches import cases
from benches.cases import CASES
from benches.measure import Table, ratio
from benches.serving import served
from benches.transport_clients import CLIENTS, NATIVE, SMALL

_AT_ONCE, _CALLS = 256, 512
_BOUND = 1.02
_SHARE = 0.01

Way: TypeAlias = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]
"""Instruments the process; what it gives ends a turn, and is part of its time."""

_collections: list[float] = []


class _Nowhere(SpanExporter):  # type: ignore[misc]  # not installed where it is checked
    """Takes spans, so that only those who make them are measured."""

    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the exporter's signature
        return SpanExportResult.SUCCESS


def _nothing() -> None:
    """A turn without an end of its own."""


@contextlib.contextmanager
def _off() -> Iterator[Callable[[], object]]:
    yield _nothing


@contextlib.contextmanager
def _metrics(*, histograms: bool = False) -> Iterator[Callable[[], object]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    with tito.instrument(meter_provider=provider, histograms=histograms):
        yield _nothing
        began = time.perf_counter()
        assert reader.get_metrics_data() is not None
        _collections.append(time.perf_counter() - began)
    provider.shutdown()


@contextlib.contextmanager
def _spans(share: float) -> Iterator[Callable[[], object]]:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    with tito.instrument(meter_provider=NoOpMeterProvider(), tracer_provider=provider):
        yield provider.force_flush
    provider.shutdown()


_OFF = "off"
_WAYS: dict[str, tuple[Way, float | None]] = {
    _OFF: (_off, None),
    "off again": (_off, None),
    "counters": (_metrics, _BOUND),
    "counters and the histograms of the conventions": (lambda: _metrics(histograms=True), None),
    f"spans, {_SHARE:.0%} of the calls sampled": (lambda: _spans(_SHARE), None),
    "spans of all calls": (lambda: _spans(1.0), None),
}


def table(rounds: int) -> Table:
    """A row for each way."""
    with served({SMALL: cases.body(SMALL)}) as url:
        wall, cpu = asyncio.run(_rounds(url, rounds))
    rows = []
    for name, (_, bound) in _WAYS.items():
        slower = ratio(wall[name], wall[_OFF])
        more = statistics.median(a - b for a, b in zip(cpu[name], cpu[_OFF], strict=True))
        rows.append(
            [
                name,
                f"{1 / statistics.median(wall[name]):,.0f}",
                f"{slower:.3f}",
                "" if bound is None else f"<= {bound}",
                "" if bound is None else "yes" if slower <= bound else "NO",
                f"{ratio(cpu[name], cpu[_OFF]):.3f}",
                f"{more * 1e6:+.1f}",
            ]
        )
    columns = ["", "calls/s", "times slower than off", "must be", "met", "CPU over off", "us CPU a call more"]
    note = (
        f"Calls with answers of {CASES[SMALL].completion} tokens, {_AT_ONCE} in flight; medians of {rounds} paired "
        f"rounds of {_CALLS:,} calls each. A collection takes {statistics.median(_collections) * 1e3:.1f} ms."
    )
    return Table("Instrumentation", columns, rows, note, {"wall": wall, "cpu": cpu})


async def _rounds(url: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of the wall clock and of the CPU for each call, by way and round."""
    wall, cpu = (defaultdict[str, list[float]](list) for _ in range(2))
    order = random.Random(0)
    async with CLIENTS[NATIVE](url) as get:
        truth = cases.truth(SMALL)
        for way, _ in _WAYS.values():
            with way():
                found = await get(SMALL)
            assert np.array_equal(found.token_ids, truth.token_ids)
            assert np.array_equal(found.logprobs, truth.logprobs)
        await _turn(get)
        for _ in range(rounds):
            for name in order.sample(list(_WAYS), len(_WAYS)):
                with _WAYS[name][0]() as end:
                    began, busy = time.perf_counter(), time.process_time()
                    await _turn(get)
                    end()
                    wall[name].append((time.perf_counter() - began) / _CALLS)
                    cpu[name].append((time.process_time() - busy) / _CALLS)
    return wall, cpu


async def _turn(get: Any) -> None:
    left = iter(range(_CALLS))

    async def worker() -> None:
        for _ in left:
            await get(SMALL)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 100).markdown())
