"""What travels through Ray's object store is not copied when it is read: its arrays are views of the store."""

from __future__ import annotations

import asyncio
import gc
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.rollout import TrainingSample
from dynamo_tito.simulator import Engine
from peers.ray import work

pytestmark = pytest.mark.filterwarnings("default")  # of Ray's own dependencies


def store() -> list[range]:
    """The addresses at which this process has mapped the object store."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/plasma" in line or "/dev/shm" in line:
            first, last = (int(part, 16) for part in re.split("[- ]", line, maxsplit=2)[:2])
            found.append(range(first, last))
    return found


def copied(record: Any) -> int:
    """Bytes of the record's arrays that are not in the store; each array is checked to be a read-only view."""
    mapped = store()
    assert mapped
    outside = 0
    for name, array in work.arrays(record):
        address = array.__array_interface__["data"][0]
        assert not array.flags.writeable, name
        assert not array.flags.owndata, name
        if array.nbytes and not any(address in part and address + array.nbytes - 1 in part for part in mapped):
            outside += array.nbytes
    return outside


def maker(cluster: Any) -> Any:
    @cluster.remote(num_cpus=1)
    class Maker:
        """An actor that has a completion, and gives it again and again."""

        def __init__(self) -> None:
            self._completion = work.completion(1)

        def size(self) -> int:
            return sum(array.nbytes for _, array in work.arrays(self._completion))

        def give(self, number: int) -> tito.Completion:
            rows = self._completion.routed_experts
            assert rows is not None
            rows.array[0, 0, 0] = number % 128
            return self._completion

    return Maker.remote()  # type: ignore[attr-defined]  # what the decorator makes


def test_a_thousand_completions_of_6_mb_copy_nothing(cluster: Any) -> None:
    actor = maker(cluster)
    expected = work.completion(1)
    size = cluster.get(actor.size.remote())
    assert 6_000_000 <= size <= 6_500_000
    # The store is smaller than what passes through it: what was read is let go.
    waiting = [actor.give.remote(number) for number in range(8)]
    for number in range(1_000):
        completion = cluster.get(waiting.pop(0))
        if number + 8 < 1_000:
            waiting.append(actor.give.remote(number + 8))
        assert copied(completion) == 0
        assert completion.routed_experts.array[0, 0, 0] == number % 128
        if number % 100 == 0:
            assert np.array_equal(completion.token_ids, expected.token_ids)
            assert np.array_equal(completion.routed_experts.array[1:], expected.routed_experts.array[1:])  # type: ignore[union-attr]
        del completion
    cluster.kill(actor)


def test_a_training_sample_copies_nothing(cluster: Any) -> None:
    sample = sampled()
    back = cluster.get(cluster.put(sample))
    assert copied(back) == 0
    part = back[5:40]
    assert copied(part) == 0
    # Comparing joins the routing of the turns to one array.
    assert part.equals(sample[5:40])
    assert back.equals(sample)


def test_what_is_read_keeps_the_memory_of_the_store(cluster: Any) -> None:
    reference = cluster.put(work.completion(3))
    array = cluster.get(reference).routed_experts.array
    before = array.copy()
    del reference
    gc.collect()
    # Others would take the memory, were it free.
    filled = [cluster.put(np.full(4 << 20, 255, np.uint8)) for _ in range(64)]
    assert np.array_equal(array, before)
    del filled


@pytest.mark.parametrize("record", ["completion", "sample", "scores"])
def test_the_pickle_itself_is_small(record: str) -> None:
    value = {"completion": lambda: work.completion(1), "sample": sampled, "scores": scored}[record]()
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    arrays = sum(array.nbytes for _, array in work.arrays(value))
    assert len(data) < 3_000
    assert sum(buffer.raw().nbytes for buffer in buffers) == arrays
    back = pickle.loads(data, buffers=buffers)
    for (name, one), (_, other) in zip(work.arrays(back), work.arrays(value), strict=True):
        assert one.__array_interface__["data"][0] == other.__array_interface__["data"][0], name
    assert back.equals(value)


def conversations(engine: Engine) -> TrainingSample:
    async def roll() -> TrainingSample:
        async with tito.AsyncTitoClient(
            engine.url, model="tito-model", transport="dynamo_chat", experts="native", trust_env=False
        ) as client:
            sample: TrainingSample = await work.conversation(client, "What is there?")
            return sample

    return asyncio.run(roll())


def sampled() -> TrainingSample:
    with simulator.running(backend="dynamo", num_layers=48, top_k=8) as engine:
        return conversations(engine)


def scored() -> tito.PromptLogprobs:
    with (
        simulator.running(backend="vllm") as engine,
        tito.TitoClient(engine.url, model="tito-model", transport="vllm_generate", trust_env=False) as client,
    ):
        return client.score(list(range(2_000)))
