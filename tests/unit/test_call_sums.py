"""The sums of calls: buckets as the SDK of OpenTelemetry fills them, and threads that share them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dynamo_tito._native import CallSums

BOUNDS = (1, 4, 16)


def prompts(*lengths: int) -> dict[str, Any]:
    """What is read of calls with these prompts, each answered."""
    sums = CallSums((1.0,), BOUNDS)
    for length in lengths:
        call = sums.begin(length)
        call.answered(200, 0, 0, True)
        call.failed("E", False)
    found: dict[str, Any] = sums.read()["tokens"]["input"]
    return found


def test_a_bucket_holds_its_bound() -> None:
    assert prompts(0, 1, 2, 4, 5, 16, 17) == {"counts": [2, 2, 2, 1], "sum": 45.0}


def test_buckets_are_those_of_the_sdk() -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    meter = metrics.MeterProvider(metric_readers=[reader]).get_meter("here")
    histogram = meter.create_histogram("x", explicit_bucket_boundaries_advisory=BOUNDS)
    values = range(20)
    for value in values:
        histogram.record(value)
    (point,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert prompts(*values)["counts"] == list(point.bucket_counts)


def test_threads_share_the_sums() -> None:
    sums = CallSums((1e-9, 1.0), BOUNDS)
    threads, calls = 8, 300

    def work(_: int) -> None:
        for number in range(calls):
            call = sums.begin(3)
            call.answered(503, 1, 2, True)
            call.retried("503")
            call.answered(200, 1, 2, True)
            call.refused("rows" if number % 2 else "trim")
            assert sums.read()["active"] > 0
            call.failed("RoutedExpertsError", False)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    found, count = sums.read(), threads * calls
    assert found["active"] == 0
    assert found["requests"] == {503: count, 200: count}
    assert (found["sent"], found["received"]) == (2 * count, 4 * count)
    assert found["retries"] == {"503": count}
    assert found["refusals"] == {"rows": count // 2, "trim": count // 2}
    assert found["tokens"]["input"] == {"counts": [0, count, 0, 0], "sum": 3.0 * count}
    assert sum(found["durations"]["RoutedExpertsError"]["counts"]) == count
    assert 0 < found["decoding"] < found["durations"]["RoutedExpertsError"]["sum"]
