"""The Qwen3 renderer of the `renderers` package over fifty turns, with a tokenizer built here."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito.rollout import Renderer, Rollout
from dynamo_tito.simulator import Engine
from support.judge import judge
from support.qwen import VOCAB_SIZE, QwenTokenizer

pytest.importorskip("renderers")

from renderers import Qwen3Renderer, Qwen3RendererConfig

TURNS = 50
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


async def roll(engine: Engine, rollout: Rollout, *, users: bool) -> None:
    async with AsyncTitoClient(
        engine.url, model=engine.config.model, transport="dynamo_chat", experts="native", trust_env=False
    ) as client:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
        for number in range(TURNS):
            await rollout.step(client, messages, sampling_params={"max_tokens": 12})
            messages = [{"role": "tool", "content": f"result {number}"}]
            if users and number % 3 == 0:
                messages = [{"role": "user", "content": f"the next question, number {number}"}]


@pytest.mark.parametrize("thinking", [True, False])
def test_fifty_turns_never_encode_what_was_sampled(thinking: bool) -> None:
    tokenizer = QwenTokenizer()
    renderer = Qwen3Renderer(tokenizer, Qwen3RendererConfig(enable_thinking=thinking))
    rollout = Rollout(renderer, tools=TOOLS)
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.1, seed=3, prompt_start="trim") as engine:
        # With thinking, the template drops what was thought at the next question: there, nothing could be kept.
        asyncio.run(roll(engine, rollout, users=not thinking))
        truth = [record.samples[0] for record in engine.requests]
    assert (len(truth), rollout.drifts) == (TURNS, [])
    held = np.empty(0, np.int64)
    for sample in truth:
        assert np.array_equal(sample.prompt_ids[: len(held)], held)
        held = np.concatenate([sample.prompt_ids, sample.token_ids])
    assert {sample.finish_reason for sample in truth} == {"eos", "length"}
    judge(rollout.sample(), truth)
    # Only what the environment and the template say went through the tokenizer.
    said = re.compile(r"\W|im_start|im_end|system|user|assistant|be|hello|result|the next question|number|\d|think")
    for text in set(tokenizer.encoded):
        assert "# Tools" in text or said.sub("", text) == ""
    # And that matters: encoding the text of what was sampled gives other tokens.
    sampled = [int(token) for sample in truth for token in sample.token_ids]
    assert tokenizer.encode(tokenizer.decode(sampled)) != sampled


def test_its_objects_are_renderers_as_they_are() -> None:
    assert isinstance(Qwen3Renderer(QwenTokenizer()), Renderer)


def test_a_new_question_after_thinking_is_a_drift_that_is_named() -> None:
    renderer = Qwen3Renderer(QwenTokenizer(), Qwen3RendererConfig(enable_thinking=True))
    rollout = Rollout(renderer, on_drift="branch")
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.1, seed=5, prompt_start="trim") as engine:
        asyncio.run(_two(engine, rollout))
        truth = [record.samples[0] for record in engine.requests]
    (drift,) = rollout.drifts
    # Among the sampled tokens: their text is encoded anew, and differently.
    first = len(truth[0].prompt_ids)
    assert drift.message == 1
    assert first <= drift.token < first + len(truth[0].token_ids)
    assert [len(sample) for sample in rollout.samples()] == [
        len(sample.prompt_ids) + len(sample.token_ids) for sample in truth
    ]
    assert rollout.samples()[1].shared == drift.token
    assert rollout.sample().mask.sum() == drift.token - first + len(truth[1].token_ids)


async def _two(engine: Engine, rollout: Rollout) -> None:
    async with AsyncTitoClient(
        engine.url, model=engine.config.model, transport="dynamo_chat", trust_env=False
    ) as client:
        for text in ("one", "two"):
            await rollout.step(client, [{"role": "user", "content": text}], sampling_params={"max_tokens": 12})
