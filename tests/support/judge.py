"""Compares a rollout with the record of the engine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dynamo_tito.rollout import TrainingSample
from dynamo_tito.simulator.model import Sample


def judge(sample: TrainingSample, samples: Iterable[Sample], *, float32: bool = False, routed: bool = True) -> None:
    """Every token, log-probability and row of a sample (made with ``final_row="repeat"``) is on the engine's record.

    Args:
        sample: of a sequence that ends with a completion.
        samples: what the engine sampled for its turns, first to last.
        float32: the wire rounded log-probabilities.
        routed: the server sent routed experts.
    """
    records = list(samples)
    ids = sample.token_ids
    assert ids.dtype == np.int32
    last = records[-1]
    assert np.array_equal(ids, np.concatenate([last.prompt_ids, last.token_ids]))
    mask, logprobs = np.zeros(len(ids), bool), np.full(len(ids), np.nan)
    for record in records:
        prompt = len(record.prompt_ids)
        whole = np.concatenate([record.prompt_ids, record.token_ids])[: len(ids)]
        differing = np.flatnonzero(whole != ids[: len(whole)])
        common = int(differing[0]) if len(differing) else len(whole)
        if common > prompt:
            mask[prompt:common] = True
            logprobs[prompt:common] = record.logprobs[: common - prompt]
    assert np.array_equal(sample.mask, mask)
    found = sample.logprobs.astype(np.float32) if float32 else sample.logprobs
    assert np.array_equal(found, logprobs.astype(found.dtype), equal_nan=True)
    if not routed:
        assert sample.routed_experts is None
        return
    rows = sample.routed_experts
    assert rows is not None
    truth = np.asarray(last.routed_experts)
    assert len(rows) == len(ids) == len(truth) + 1
    assert np.array_equal(rows[:-1], truth)
    assert np.array_equal(rows[-1], truth[-1])
