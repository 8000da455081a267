"""Pickle protocol 5: a few hundred bytes in band, the arrays beside them, nothing copied on the way back."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import SampleBatch
from dynamo_tito.rollout import TrainingSample, sample_of
from support.bodies import DIALECTS
from support.completions import completion, routed
from support.samples import invent

TOKENS = 4096


def whole_completion() -> tito.Completion:
    """Every array that a completion can have, decoded."""
    drawn = invent(3, prompt=64, completion=TOKENS, experts=300, top=3, prompt_logprobs=True, mask=True)
    body = json.dumps(DIALECTS["prime_generate"].build([drawn], "object")).encode()
    return tito.decode(body, wire="vllm_generate", prompt_token_ids=drawn.prompt, experts="native")


def one_sample() -> TrainingSample:
    return sample_of(range(100), completion([*range(TOKENS)], routed(99 + TOKENS), request_id="chatcmpl-" + "7" * 32))


def arrays(value: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a record, by the path to them."""
    if isinstance(value, SampleBatch):
        return {name: array for name, array in value.to_numpy().items() if array is not None}
    names = getattr(type(value), "__slots__", None) or ()
    found = {}
    for name in names:
        inner = getattr(value, name)
        if isinstance(inner, np.ndarray):
            found[name] = inner
        elif type(inner).__module__.startswith("dynamo_tito") and not isinstance(inner, type):
            found.update({f"{name}.{path}": array for path, array in arrays(inner).items()})
    if isinstance(value, TrainingSample) and value.routed_experts is not None:
        found["routed_experts"] = value.routed_experts
    return found


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (whole_completion, 1200),  # 12 arrays, and the names of their sources
        (one_sample, 800),
        (lambda: SampleBatch.from_samples([one_sample()] * 50), 800),
    ],
    ids=["completion", "sample", "batch"],
)
def test_arrays_travel_beside_the_pickle(make: Any, most: int) -> None:
    value = make()
    before = arrays(value)
    assert len(before) >= 4
    views: list[pickle.PickleBuffer] = []
    band = pickle.dumps(value, protocol=5, buffer_callback=views.append)
    assert len(band) <= most, len(band)
    assert sum(view.raw().nbytes for view in views) == sum(array.nbytes for array in before.values())
    # What was pickled is the memory itself.
    for view in filter(len, map(pickle.PickleBuffer.raw, views)):
        assert any(np.shares_memory(np.frombuffer(view, np.uint8), array) for array in before.values())

    received = [bytearray(view.raw()) for view in views]
    again = pickle.loads(band, buffers=received)
    assert again.equals(value)
    memory = [np.frombuffer(buffer, np.uint8) for buffer in received]
    for path, array in arrays(again).items():
        assert not array.size or any(np.shares_memory(array, buffer) for buffer in memory), path

    assert pickle.loads(pickle.dumps(value, protocol=5)).equals(value)


def test_pieces_of_routing_are_not_joined_for_a_pickle() -> None:
    sample = one_sample()
    assert sample.rows is not None
    parts: list[pickle.PickleBuffer] = []
    pickle.dumps(sample, protocol=5, buffer_callback=parts.append)
    # The final row, which no engine sends, is a piece of its own.
    assert [part.raw().nbytes for part in parts[-2:]] == [(99 + TOKENS) * 4, 4]


def test_what_was_read_only_stays_so() -> None:
    views: list[pickle.PickleBuffer] = []
    band = pickle.dumps(one_sample(), protocol=5, buffer_callback=views.append)
    again = pickle.loads(band, buffers=[bytes(view.raw()) for view in views])
    assert not again.token_ids.flags.writeable
    assert again.equals(one_sample())
