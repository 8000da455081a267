"""Scores of given tokens in Python: forms of the ids, wrong arguments, long prompts. Bodies are in ``tests/cases``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito

IDS = [11, 12, 13, 14]


def body(wire: str, scores: list[Any]) -> bytes:
    """An answer of one sampled token with these scores."""
    if wire == "sglang_generate":
        meta = {"finish_reason": None, "input_token_logprobs": scores}
        return json.dumps({"output_ids": [7], "meta_info": meta}).encode()
    choice = {"index": 0, "token_ids": [7], "finish_reason": "length"}
    return json.dumps({"choices": [choice], "prompt_logprobs": scores}).encode()


@pytest.mark.parametrize("ids", [IDS, tuple(IDS), np.array(IDS, np.int32), np.array(IDS, np.int64)])
def test_ids_in_every_form(ids: Any) -> None:
    scores = [None, *({str(token): {"logprob": -token}} for token in IDS[1:])]
    found = tito.decode_prompt_logprobs(body("vllm_generate", scores), wire="vllm_generate", prompt_token_ids=ids)
    assert found.logprobs[1:].tolist() == [-12, -13, -14]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"start": 5}, ValueError),
        ({"start": -1}, ValueError),
        ({"start": 1.0}, TypeError),
        ({"start": True}, TypeError),
        ({"prompt_token_ids": [-1]}, ValueError),
        ({"prompt_token_ids": None}, TypeError),
        ({"missing_logprob": "zero"}, ValueError),
        ({"wire": "openai"}, ValueError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        tito.decode_prompt_logprobs(b"", **{"wire": "vllm_generate", "prompt_token_ids": IDS, **options})
    assert not isinstance(caught.value, tito.TitoError)


@pytest.mark.parametrize("wire", ["vllm_generate", "sglang_generate"])
def test_128k_positions(wire: Any) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 150_000, 131_072)
    values = -rng.exponential(1.0, len(ids))
    rest = zip(ids[1:].tolist(), values[1:].tolist(), strict=True)
    scores: list[Any]
    if wire == "sglang_generate":
        scores = [[None, int(ids[0]), None], *([value, token, None] for token, value in rest)]
    else:
        scores = [None, *({str(token): {"logprob": value, "rank": 1}} for token, value in rest)]
    found = tito.decode_prompt_logprobs(body(wire, scores), wire=wire, prompt_token_ids=ids, start=1_000)
    assert np.isnan(found.logprobs[:1_000]).all()
    assert np.array_equal(found.logprobs[1_000:], values[1_000:])
    assert np.array_equal(found.top.token_ids, ids[1_000:])
