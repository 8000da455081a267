"""What it costs a call to be counted and traced: ``python -m benches.telemetry [rounds]``, in three minutes.

The calls are those of the small answers of ``benches.transport``: the native client, 256 in flight. A turn of
each way to instrument stands between two turns without, in one process with one client, and is compared with the mean
of both. A collection is timed for itself: a reader makes one every 15 or 60 seconds, whatever the number of calls.

The bound is on the CPU that a call costs this process, which the calls a second follow: beside other work the wall
clock wavers by more than the bound, as the row *off* shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
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
from benches.measure import Table
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


_WAYS: dict[str, tuple[Way, float | None]] = {
    "off": (_off, None),
    "counters": (_metrics, _BOUND),
    "counters and the histograms of the conventions": (lambda: _metrics(histograms=True), None),
    f"spans, {_SHARE:.0%} of the calls sampled": (lambda: _spans(_SHARE), None),
    "spans of all calls": (lambda: _spans(1.0), None),
}


def table(rounds: int) -> Table:
    """A row for each way."""
    with served({SMALL: cases.body(SMALL)}) as url:
        found = asyncio.run(_rounds(url, rounds))
    rows = []
    for name, (_, bound) in _WAYS.items():
        rates, wall, cpu, more = (statistics.median(column) for column in zip(*found[name], strict=True))
        verdict = ("", "") if bound is None else (f"<= {bound}", "yes" if cpu <= bound else "NO")
        rows.append([name, f"{rates:,.0f}", f"{wall:.3f}", f"{more * 1e6:+.1f}", f"{cpu:.3f}", *verdict])
    columns = ["", "calls/s", "time over off", "us CPU a call more", "CPU over off", "must be", "met"]
    note = (
        f"Calls with answers of {CASES[SMALL].completion} tokens, {_AT_ONCE} in flight; medians of {rounds} rounds of "
        f"{_CALLS:,} calls each. A collection takes {statistics.median(_collections) * 1e3:.1f} ms."
    )
    return Table("Instrumentation", columns, rows, note, found)


async def _rounds(url: str, rounds: int) -> dict[str, list[tuple[float, float, float, float]]]:
    """For each way and round: calls a second, the ratios of wall clock and CPU to off, the CPU of a call beyond it."""
    found = defaultdict[str, list[tuple[float, float, float, float]]](list)
    order = random.Random(0)
    async with CLIENTS[NATIVE](url) as get:
        truth = cases.truth(SMALL)
        for way, _ in _WAYS.values():
            with way():
                answer = await get(SMALL)
            assert np.array_equal(answer.token_ids, truth.token_ids)
            assert np.array_equal(answer.logprobs, truth.logprobs)
        await _turn(get, _off)
        for _ in range(rounds):
            for name in order.sample(list(_WAYS), len(_WAYS)):
                before, (wall, cpu), after = [await _turn(get, way) for way in (_off, _WAYS[name][0], _off)]
                off_wall, off_cpu = ((one + other) / 2 for one, other in zip(before, after, strict=True))
                found[name].append((1 / wall, wall / off_wall, cpu / off_cpu, cpu - off_cpu))
    return found


async def _turn(get: Any, way: Way) -> tuple[float, float]:
    """Seconds of the wall clock and of the CPU for each of so many calls."""
    left = iter(range(_CALLS))

    async def worker() -> None:
        for _ in left:
            await get(SMALL)

    with way() as end:
        gc.collect()  # what the turn before has left
        began, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
        end()
        return (time.perf_counter() - began) / _CALLS, (time.process_time() - busy) / _CALLS


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 60).markdown())
