"""Ray: completions through the object store, and sequences scored by ``map_batches``, beside one process.

``python -m benches.ray_ [--completions 1000] [--sequences 200000] [--workers 2] [--delay 0.05] [--check]``: 4 minutes
on two cores. Needs the extra ``ray``. With ``--check`` it exits with 1 if a figure misses its bound.

The teacher answers as an embedded engine did, each time 0.5 to 1.5 times ``--delay`` seconds later: as with a real
engine, a process is bounded by its sequences in flight, and the cores are enough for all. Every score is held against
what one process got before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

import dynamo_tito as tito
from benches.figures import Figure
from benches.replaying import replayed
from dynamo_tito import simulator
from dynamo_tito._types import Float64Array, Int32Array
from dynamo_tito.integrations.ray import FleetView, TeacherScores, discover

_STORE = 512 << 20
_ROWS, _LAYERS, _TOP_K = 3_905, 48, 8
_WAITING = 8
_KINDS, _BLOCK, _BATCH = 256, 2_500, 256
_SHARE = 0.85


@ray.remote(num_cpus=1)
class Maker:
    """An actor that has a completion of 6 MB, and gives it again and again."""

    def __init__(self) -> None:
        experts = np.random.default_rng(1).integers(0, 128, (_ROWS, _LAYERS, _TOP_K), np.int32)
        choice = {
            "index": 0,
            "token_ids": list(range(1_000)),
            "finish_reason": "length",
            "routed_experts": tito.encode_routed_experts(experts),
        }
        body = json.dumps({"id": "x", "choices": [choice]}).encode()
        self._completion = tito.decode(body, wire="vllm_generate", require_logprobs=False, prompt_len=_ROWS - 999)

    def give(self) -> tito.Completion:
        """The completion."""
        return self._completion


def completions(count: int) -> Figure:
    """What is copied of completions that an actor gives to the driver."""
    actor = Maker.remote()  # type: ignore[attr-defined]  # what the decorator makes
    waiting = [actor.give.remote() for _ in range(_WAITING)]
    copied = size = 0
    began = time.perf_counter()
    for number in range(count):
        completion = ray.get(waiting.pop(0))
        if number + _WAITING < count:
            waiting.append(actor.give.remote())
        rows = completion.routed_experts.array
        assert rows.shape == (_ROWS, _LAYERS, _TOP_K)
        arrays = (rows, completion.token_ids)
        copied += sum(array.nbytes for array in arrays if array.flags.writeable or array.flags.owndata)
        size = sum(array.nbytes for array in arrays)
    rate = count / (time.perf_counter() - began)
    ray.kill(actor)
    name = f"{count:,} completions of {size / 1e6:.1f} MB from actor to driver, {rate:,.0f} a second: copied on reload"
    return Figure(name, f"{copied} bytes", "0 bytes", copied == 0)


@dataclass(frozen=True)
class Load:
    """Sequences of several kinds, which take turns, and what the teacher says of each kind."""

    kinds: list[Int32Array]
    truth: list[Float64Array]

    def sequences(self, count: int) -> list[Int32Array]:
        """The first ``count`` of them."""
        return [self.kinds[number % len(self.kinds)] for number in range(count)]

    def blocks(self, count: int) -> Iterator[pa.Table]:
        """The same with their numbers, as blocks of a data set."""
        for first in range(0, count, _BLOCK):
            numbers = range(first, min(first + _BLOCK, count))
            given = [self.kinds[number % len(self.kinds)] for number in numbers]
            yield pa.table({"number": numbers, "token_ids": pa.array(given)})

    def check(self, scored: pa.Table) -> int:
        """How many are scored; every value is the teacher's."""
        numbers = scored.column("number").to_pylist()
        truth = np.concatenate([self.truth[number % len(self.truth)] for number in numbers])
        found = scored.column("teacher_logprobs").combine_chunks().flatten().to_numpy()
        assert np.array_equal(found, truth, equal_nan=True)
        return len(numbers)


async def prove(view: FleetView, engine: simulator.Engine) -> Load:
    """Scores that the engine computed, through the replaying server: as it asks, and as it plays."""
    kinds = [np.arange(number, number + 32 + 7 * (number % 32), dtype=np.int32) for number in range(_KINDS)]
    async with view.connect() as client:
        asked, played = [await client.score_many(kinds) for _ in range(2)]
    truth = []
    for ids, first, second in zip(kinds, asked, played, strict=True):
        assert isinstance(first, tito.PromptLogprobs)
        assert first.equals(second)
        computed = engine.model.score(ids.astype(np.int64), version=engine.admin.weights).logprobs
        assert np.allclose(first.logprobs[1:], computed[1:], rtol=0, atol=1e-6)
        truth.append(first.logprobs.astype(np.float64))
    return Load(kinds, truth)


def one_process(view: FleetView, load: Load, count: int) -> float:
    """Sequences a second."""

    async def score() -> float:
        async with view.connect() as client:
            began = time.perf_counter()
            scored = await client.score_many(load.sequences(count))
            seconds = time.perf_counter() - began
        for number, each in enumerate(scored):
            assert isinstance(each, tito.PromptLogprobs)
            assert np.array_equal(each.logprobs, load.truth[number % len(load.truth)], equal_nan=True)
        return count / seconds

    return asyncio.run(score())


def on_ray(view: FleetView, load: Load, count: int, workers: int) -> float:
    """Sequences a second, the start of the processes included."""
    dataset = ray.data.from_arrow(list(load.blocks(count)))
    began = time.perf_counter()
    scored = dataset.map_batches(
        TeacherScores,
        fn_constructor_kwargs={"view": view},
        batch_format="pyarrow",
        batch_size=_BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    done = sum(load.check(each) for each in scored.iter_batches(batch_format="pyarrow", batch_size=None))
    assert done == count
    return count / (time.perf_counter() - began)


def scores(count: int, workers: int, delay: float) -> Figure:
    """The rate of a pool of processes over that of one, which is measured before and behind it."""
    with simulator.running(backend="vllm") as engine, replayed(engine.url, delay) as url:
        view = asyncio.run(discover(url, backend="vllm", model="tito-model", trust_env=False))
        load = asyncio.run(prove(view, engine))
        few = max(count // 20, 1)
        before = one_process(view, load, few)
        together = on_ray(view, load, count, workers)
        alone = statistics.mean([before, one_process(view, load, few)])
    share = together / (alone * workers)
    name = (
        f"{count:,} sequences: {alone:,.0f} a second in one process, {together:,.0f} in {workers} of map_batches: share"
    )
    return Figure(name, f"{share:.1%}", f">= {_SHARE:.0%}", share >= _SHARE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=1_000)
    parser.add_argument("--sequences", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    # Ray gives its workers a lower priority than that of the one process beside them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(num_cpus=arguments.workers + 1, object_store_memory=_STORE, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    figures = []
    try:
        if arguments.completions:
            figures.append(completions(arguments.completions))
            figures[-1].show()
        if arguments.sequences:
            figures.append(scores(arguments.sequences, arguments.workers, arguments.delay))
            figures[-1].show()
    finally:
        ray.shutdown()
    return int(arguments.check and not all(figure.held for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
