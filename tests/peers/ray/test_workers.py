"""Rollout workers and teacher scores on a local cluster, against the embedded engine's record."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Worker
from dynamo_tito.integrations.ray import FleetView, RolloutWorkers, TeacherScores, discover
from dynamo_tito.simulator import Backend, Engine, Fault
from peers.ray import work

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("default"),  # of the own dependencies of Ray
]


def right(results: Iterable[tuple[int, Any]]) -> dict[int, Any]:
    """Every result, none an error."""
    found = dict(results)
    assert not [result for result in found.values() if isinstance(result, tito.TitoError)]
    return found


def seen(engine: Engine, **arguments: Any) -> FleetView:
    backend = engine.config.backend
    given = {"rl_base_url": engine.rl_url} if backend == "dynamo" else {}
    return asyncio.run(
        discover(engine.url, backend=backend, model="tito-model", **given, trust_env=False, **arguments)  # type: ignore[arg-type]
    )


def listings(engine: Engine) -> int:
    return sum(record.path == "/v1/rl/workers" for record in engine.calls)


def test_discovery_is_asked_once_for_all_processes() -> None:
    tasks = [{"prompt": [number + 1, 2, 3], "tokens": 1 + number % 7} for number in range(60)]
    with simulator.running(backend="dynamo") as engine:
        view = seen(engine)
        assert isinstance(view.workers[0], Worker)
        assert listings(engine) == 1
        with RolloutWorkers(view, count=2, num_cpus=1) as workers:
            results = right(workers.map(work.sample, tasks, in_flight=8))
            processes = {pid for pid, _, _ in right(workers.map(work.process, range(8), in_flight=1)).values()}
        assert listings(engine) == 1
        assert len(processes) == 2
        assert sorted(results) == list(range(60))
        records = {tuple(record.samples[0].prompt_ids): record.samples[0] for record in engine.requests}
        for number in range(60):
            completion, truth = results[number], records[(number + 1, 2, 3)]
            assert np.array_equal(completion.token_ids, truth.token_ids)
            assert np.array_equal(completion.logprobs, truth.logprobs)
            assert np.array_equal(completion.routed_experts.array, truth.routed_experts)


def test_as_many_are_in_flight_as_may_be() -> None:
    most = 0
    with simulator.running(backend="vllm") as engine, RolloutWorkers(seen(engine), count=2, num_cpus=1) as workers:
        engine.pace.hold()
        results = workers.map(work.stream, range(100), in_flight=16)
        done: list[tuple[int, Any]] = []
        thread = threading.Thread(target=lambda: done.extend(results))
        thread.start()
        while engine.admin.in_flight < 32:
            thread.join(0.01)
            assert thread.is_alive()
        most = engine.admin.in_flight
        engine.pace.release()
        thread.join()
    assert most == 32
    assert sorted(number for number, _ in done) == list(range(100))
    assert {count for _, count in done} == {4}


def test_a_task_that_fails_leaves_the_others() -> None:
    with simulator.running(backend="vllm") as engine, RolloutWorkers(seen(engine), count=1, num_cpus=1) as workers:
        engine.inject(Fault(kind="wrong_rows", by=1))
        results = dict(workers.map(work.sample, [{"prompt": [1], "tokens": 2}] * 5, in_flight=2))
        errors = [result for result in results.values() if isinstance(result, tito.TitoError)]
        assert len(results) == 5
        (error,) = errors
        assert type(error) is tito.RoutedExpertsError
        assert (error.kind, error.path) == ("rows", "choices[0].routed_experts")


def test_a_bug_of_the_work_is_raised() -> None:
    with simulator.running(backend="vllm") as engine, RolloutWorkers(seen(engine), count=1, num_cpus=1) as workers:
        with pytest.raises(ZeroDivisionError):
            dict(workers.map(work.bug, [1, 0, 1], in_flight=1))
        assert dict(workers.map(work.bug, [1, 1], in_flight=1)) == {0: 1, 1: 1}


def test_the_processes_take_turns_at_the_servers_and_take_others() -> None:
    with simulator.running(backend="vllm") as one, simulator.running(backend="vllm", seed=1) as two:
        view = asyncio.run(discover([one.url, two.url], backend="vllm", model="tito-model", trust_env=False))
        assert view.workers == ()
        with RolloutWorkers(view, count=2, num_cpus=1) as workers:
            used = {url for _, url, _ in right(workers.map(work.process, range(20), in_flight=1)).values()}
            assert used == {one.url, two.url}
            workers.use(FleetView((two.url,), "vllm", "other", options={"trust_env": False}))
            later = {
                (url, model) for _, url, model in right(workers.map(work.process, range(20), in_flight=1)).values()
            }
            assert later == {(two.url, "other")}


@pytest.mark.parametrize("backend", ["dynamo", "vllm", "sglang"])
def test_discovery_refuses_a_model_that_is_not_served(backend: Backend) -> None:
    with simulator.running(backend=backend) as engine:
        given = {"rl_base_url": engine.rl_url} if backend == "dynamo" else {}
        looking = discover(engine.url, backend=backend, model="other", trust_env=False, **given)  # type: ignore[arg-type]
        with pytest.raises(tito.AdminError):
            asyncio.run(looking)


def test_a_data_set_is_scored(cluster: Any) -> None:
    sequences = [[*range(10 * number, 10 * number + 3 + number % 5)] for number in range(50)]
    starts = [number % 3 for number in range(50)]
    table = pa.table({"number": range(50), "ids": pa.array(sequences, pa.list_(pa.int32())), "first": starts})
    with simulator.running(backend="vllm", max_model_len=500_000) as engine:
        dataset = cluster.data.from_arrow([table.slice(0, 20), table.slice(20)]).map_batches(
            TeacherScores,
            fn_constructor_kwargs={"view": seen(engine), "column": "ids", "start": "first", "output": "teacher"},
            batch_format="pyarrow",
            batch_size=8,
            compute=cluster.data.ActorPoolStrategy(size=2),
        )
        rows = sorted(dataset.take_all(), key=lambda row: row["number"])
        assert [row["number"] for row in rows] == list(range(50))
        with tito.TitoClient(engine.url, model="tito-model", trust_env=False) as client:
            for row, ids, start in zip(rows, sequences, starts, strict=True):
                truth = client.score(ids, start=start).logprobs
                assert row["ids"] == ids
                assert row["teacher_error"] is None
                assert np.array_equal(np.asarray(row["teacher"], np.float64), truth, equal_nan=True)


def test_a_sequence_that_cannot_be_scored_is_null() -> None:
    table = pa.table({"number": range(3), "token_ids": [[1, 2, 3], [5] * 40, [4, 5, 6]]})
    with simulator.running(backend="vllm", max_model_len=32) as engine:
        scores = TeacherScores(seen(engine))
        rows = asyncio.run(scores(table)).to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert [row["teacher_logprobs"] is None for row in rows] == [False, True, False]
    assert [row["teacher_logprobs_error"] is None for row in rows] == [True, False, True]
    assert "the prompt has 40 tokens" in rows[1]["teacher_logprobs_error"]
    assert len(rows[2]["teacher_logprobs"]) == 3


def test_batches_at_once_share_what_is_in_flight() -> None:
    batches = [pa.table({"token_ids": [[first + number, 7, 9] for number in range(8)]}) for first in (10, 50, 90)]

    most = 0

    async def main(engine: Engine, scores: TeacherScores) -> list[Any]:
        nonlocal most
        calls = asyncio.gather(*(scores(batch) for batch in batches))
        while not calls.done():
            most = max(most, engine.admin.in_flight)
            await asyncio.sleep(0.005)
        return await calls

    with simulator.running(backend="vllm", latency=1.0) as engine:
        found = asyncio.run(main(engine, TeacherScores(seen(engine), concurrency=12)))
    assert most == 12
    for batch, scored_batch in zip(batches, found, strict=True):
        assert scored_batch.column("token_ids") == batch.column("token_ids")
        assert scored_batch.column("teacher_logprobs_error").null_count == 8
        for ids, row in zip(
            batch.column("token_ids").to_pylist(), scored_batch.column("teacher_logprobs").to_pylist(), strict=True
        ):
            truth = engine.model.score(np.array(ids), version=engine.admin.weights).logprobs
            assert np.allclose(row[1:], truth[1:], rtol=0, atol=1e-6)


def test_a_loop_that_stands_still_ends_no_call() -> None:
    batch = pa.table({"token_ids": [[number, 7, 9] for number in range(8)]})

    async def main(scores: TeacherScores) -> Any:
        call = asyncio.ensure_future(scores(batch))
        await asyncio.sleep(0.05)
        time.sleep(3.0)  # noqa: ASYNC251 - as Ray Data does
        return await call

    with simulator.running(backend="vllm", latency=0.1) as engine:
        found = asyncio.run(main(TeacherScores(seen(engine), concurrency=2, deadline=2.0)))
    assert found.column("teacher_logprobs_error").null_count == 8


@pytest.mark.parametrize(
    ("column", "error", "says"),
    [
        (pa.array(["abc"]), TypeError, "lists of integers, not string"),
        (pa.array([[1.5]]), TypeError, "lists of integers"),
        (pa.array([[1], None]), ValueError, "null"),
        (pa.array([[1, None]]), ValueError, "null"),
        (pa.array([[1, 2], [3, -4]]), ValueError, r"not -4\nin sequences\[1\]"),
    ],
)
def test_a_column_that_holds_no_ids_is_refused_unsent(column: Any, error: type[Exception], says: str) -> None:
    with simulator.running(backend="vllm") as engine:
        scores = TeacherScores(seen(engine))
        with pytest.raises(error, match=says):
            asyncio.run(scores(pa.table({"token_ids": column})))
        assert engine.requests == []


def test_nothing_of_the_package_imports_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; import dynamo_tito, dynamo_tito.rollout, dynamo_tito.control, "
        "dynamo_tito.simulator, dynamo_tito.integrations; dynamo_tito.AsyncTitoClient"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
