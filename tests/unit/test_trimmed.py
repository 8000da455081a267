"""`RoutedExperts.trimmed` says how many rows the server sent in front of those that were asked for."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest

import dynamo_tito as tito

ROWS = 7


def decoded(start: int, *, asked: int | None) -> tito.RoutedExperts:
    experts = np.arange((ROWS - start) * 2 * 2, dtype=np.int32).reshape(-1, 2, 2)
    container = tito.encode_routed_experts(experts, start=start)
    choice = {"index": 0, "token_ids": [1, 2, 3], "finish_reason": "length", "routed_experts": container}
    completion = tito.decode(
        json.dumps({"id": "x", "choices": [choice]}).encode(),
        wire="vllm_generate",
        prompt_len=ROWS - 2,
        require_logprobs=False,
        routed_experts_prompt_start=asked,
    )
    assert completion.routed_experts is not None
    return completion.routed_experts


@pytest.mark.parametrize(("start", "asked", "trimmed"), [(0, None, 0), (0, 0, 0), (0, 4, 4), (4, 4, 0)])
def test_rows_in_front_are_counted(start: int, asked: int | None, trimmed: int) -> None:
    rows = decoded(start, asked=asked)
    assert (rows.start, len(rows.array), rows.trimmed) == (asked or 0, ROWS - (asked or 0), trimmed)


def test_it_describes_the_server_not_the_rows() -> None:
    here, there = decoded(0, asked=4), decoded(4, asked=4)
    there = dataclasses.replace(there, array=here.array)
    assert (here.trimmed, there.trimmed) == (4, 0)
    assert here.equals(there)
    assert "trimmed" not in repr(here)
    assert pickle.loads(pickle.dumps(here)).trimmed == 4
