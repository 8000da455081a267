"""Conversations with a real vLLM whose `/tokenize` renders them: the sample equals that of a forward pass."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary
from dynamo_tito.rollout import Rollout, ServerRenderer
from support.vllm_live import TOLERANCE, end_token
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

TURNS = 4


async def roll(server: VllmServer, renderer: ServerRenderer, http: HttpLibrary, stop: int) -> Rollout:
    rollout = Rollout(renderer)
    async with AsyncTitoClient(
        server.url, model=MODEL, transport="vllm_generate", http=http, experts="native", require_routed_experts=True,
        timeout=300.0, trust_env=False,
    ) as client:  # fmt: skip
        messages: list[dict[str, Any]] = [{"role": "system", "content": "be"}, {"role": "user", "content": "the fox"}]
        for number in range(TURNS):
            # Every other turn ends with the stop token, the others are cut by length.
            params = {"max_tokens": 12} | ({"logit_bias": {str(stop): 8.0}} if number % 2 else {"ignore_eos": True})
            await rollout.step(client, messages, sampling_params=params)
            role = "tool" if number == 1 else "user"
            messages = [{"role": role, "content": f"and {number}, 東京?", "tool_call_id": "1"}]
    return rollout


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_four_turns(moe: VllmServer, truth: Truth, http: HttpLibrary) -> None:
    stop = end_token(moe)
    with TitoClient(moe.url, model=MODEL, transport="vllm_generate", timeout=60.0, trust_env=False) as asking:
        rollout = asyncio.run(roll(moe, ServerRenderer(asking, stop_token_ids=[stop]), http, stop))
    assert rollout.drifts == []
    assert len(rollout.turns) == TURNS
    sample = rollout.sample(final_row="drop")
    ids = sample.token_ids.tolist()
    assert sample.routed_experts is not None
    assert sample.mask.sum() > TURNS
    # The dropped token is not needed: every row and value is of a token before it.
    forward = truth.one("moe_a", ids)
    np.testing.assert_array_equal(sample.routed_experts, forward.experts)
    at = np.flatnonzero(sample.mask)
    expected = forward.logprobs[at - 1, np.asarray(ids)[at]]
    np.testing.assert_allclose(sample.logprobs[at], expected, rtol=0, atol=TOLERANCE)
