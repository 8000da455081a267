"""Ray: completions through the object store, and sequences scored by ``map_batches``, beside one process.

``python -m benches.ray_ [--completions 1000] [--sequences 4000] [--workers 2] [--latency 0.1]``. Needs the extra
``ray``. The teacher is an embedded engine in a process of its own that answers after ``--latency`` seconds, as a loaded
server does: a process is then bounded by its sequences in flight, and more processes score more, until the cores that
all of them share are used up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray

import dynamo_tito as tito
from dynamo_tito.integrations.ray import FleetView, TeacherScores, discover

_STORE = 512 << 20
_ROWS, _LAYERS, _TOP_K = 3_905, 48, 8
_WAITING = 8


@contextmanager
def served(latency: float) -> Iterator[str]:
    """The address of an engine in a process of its own."""
    command = [sys.executable, "-m", "dynamo_tito", "serve", "--backend", "vllm", "--json", "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


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


def completions(count: int) -> None:
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
        copied += rows.nbytes if rows.flags.writeable or rows.flags.owndata else 0
        size = rows.nbytes + completion.token_ids.nbytes
    seconds = time.perf_counter() - began
    ray.kill(actor)
    print(
        f"{count} completions of {size / 1e6:.1f} MB: {count / seconds:,.0f} a second, {copied} bytes copied on reload"
    )


def one_process(view: FleetView, ids: list[np.ndarray[Any, Any]]) -> float:
    """Sequences a second."""

    async def score() -> None:
        async with view.connect() as client:
            scored = await client.score_many(ids)
            assert not [each for each in scored if isinstance(each, tito.TitoError)]

    began = time.perf_counter()
    asyncio.run(score())
    return len(ids) / (time.perf_counter() - began)


def on_ray(view: FleetView, ids: list[np.ndarray[Any, Any]], workers: int) -> float:
    """Sequences a second, the start of the processes left out: a first batch waits for them."""
    table = pa.table({"token_ids": pa.array(ids)})
    blocks = [table.slice(at, 250) for at in range(0, len(table), 250)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        TeacherScores,
        fn_constructor_kwargs={"view": view},
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    done, began = 0, 0.0
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
        assert batch.column("teacher_logprobs").null_count == 0
        if began:
            done += len(batch)
        else:
            began = time.perf_counter()
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=1_000)
    parser.add_argument("--sequences", type=int, default=4_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.1)
    arguments = parser.parse_args()
    ray.init(num_cpus=arguments.workers + 1, object_store_memory=_STORE, include_dashboard=False, log_to_driver=False)
    try:
        if arguments.completions:
            completions(arguments.completions)
        if arguments.sequences:
            ids = [np.arange(number % 900, number % 900 + 64, dtype=np.int32) for number in range(arguments.sequences)]
            with served(arguments.latency) as url:
                view = asyncio.run(discover(url, backend="vllm", model="tito-model", trust_env=False))
                alone = one_process(view, ids[: max(len(ids) // 4, 1)])
                together = on_ray(view, ids, arguments.workers)
            share = together / (alone * arguments.workers)
            print(
                f"{len(ids)} sequences: one process {alone:,.0f} a second, {arguments.workers} workers "
                f"{together:,.0f}, which is {share:.0%} of {arguments.workers} times one"
            )
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
