"""Five turns over the real Dynamo frontend, on every transport: the sample is what its engine recorded."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import HttpLibrary
from dynamo_tito.rollout import Rollout, TrainingSample
from dynamo_tito.simulator.model import Model, Sample
from support.chat import ChatRenderer, ShortRenderer
from support.dynamo_stack import DynamoStack, Worker
from support.judge import judge

TURNS = 5
TOOLS = [{"type": "function", "function": {"name": "look"}}]


async def roll(stack: DynamoStack, renderer: ChatRenderer, transport: Any, http: HttpLibrary) -> Rollout:
    rollout = Rollout(renderer, tools=TOOLS, strict_routing={"num_experts": 512})
    async with AsyncTitoClient(
        stack.url,
        model=stack.model,
        transport=transport,
        http=http,
        experts="native",
        require_routed_experts=True,
        strict_routing=True,
        timeout=60.0,
        trust_env=False,
    ) as client:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "be"}, {"role": "user", "content": "Hi"}]
        for number in range(TURNS):
            turn = await rollout.step(client, messages, sampling_params={"max_tokens": 5 + number, "temperature": 1.0})
            calls = turn.message.get("tool_calls", [])
            answers = [{"role": "tool", "content": "42", "tool_call_id": call["id"]} for call in calls]
            messages = answers or [{"role": "user", "content": f"and {number}?"}]
    return rollout


def recorded(worker: Worker, **shape: int) -> list[Sample]:
    """What the engine has on record, with routing computed anew."""
    deadline = time.monotonic() + 20
    while len(events := [event for event in worker.events() if event["event"] == "sampled"]) < TURNS:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    model = Model(**shape)
    found = []
    for event in events:
        (choice,) = event["choices"]
        sample = model.given(event["prompt_ids"], choice["token_ids"], version=choice["version"])
        np.testing.assert_array_equal(sample.logprobs, choice["logprobs"])
        found.append(sample)
    return found


@pytest.mark.parametrize("http", ["native", "httpx"])
@pytest.mark.parametrize("num_experts", [128, 512])
@pytest.mark.parametrize("transport", ["dynamo_chat", "dynamo_completions", "vllm_generate"])
def test_five_turns(
    dynamo_stack: DynamoStack, worker: Worker, transport: Any, num_experts: int, http: HttpLibrary
) -> None:
    shape = {"num_experts": num_experts, "num_layers": 6, "top_k": 3}
    worker.control(**shape, chunk=2)
    rollout = asyncio.run(roll(dynamo_stack, ChatRenderer(), transport, http))
    truth = recorded(worker, **shape)
    assert len(truth) == len(worker.requests()) == len(rollout.turns) == TURNS
    sample = rollout.sample()
    judge(sample, truth, float32=transport == "vllm_generate")
    assert sample.routed_experts is not None
    assert sample.routed_experts.dtype == (np.uint8 if num_experts == 128 else np.uint16)
    assert rollout.drifts == []


def test_equal_over_all_transports(dynamo_stack: DynamoStack, worker: Worker) -> None:
    samples: list[TrainingSample] = []
    for transport in ("dynamo_chat", "dynamo_completions", "vllm_generate"):
        worker.control()
        rollout = asyncio.run(roll(dynamo_stack, ShortRenderer(), transport, "native"))
        samples.append(rollout.sample())
    for other in samples[1:]:
        np.testing.assert_array_equal(samples[0].token_ids, other.token_ids)
        np.testing.assert_array_equal(samples[0].mask, other.mask)
        np.testing.assert_array_equal(samples[0].logprobs.astype(np.float32), other.logprobs.astype(np.float32))
        assert samples[0].routed_experts is not None
        assert other.routed_experts is not None
        np.testing.assert_array_equal(samples[0].routed_experts, other.routed_experts)
