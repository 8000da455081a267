"""Conversations on several threads over one client: each keeps its own tokens."""

from __future__ import annotations

import json

import numpy as np

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.rollout import Rollout, TrainingSample
from support.chat import ChatRenderer
from support.threads import THREADS, at_once, disturbed

TURNS = 4


def converse(client: tito.TitoClient, renderer: ChatRenderer, number: int) -> TrainingSample:
    rollout = Rollout(renderer)
    for turn in range(TURNS):
        messages = [{"role": "user", "content": f"{turn} of {number}"}]
        asked = rollout.request(messages, sampling_params={"max_tokens": 50})
        rollout.append(client.generate(**asked, deadline=60.0))
    return rollout.sample()


def test_conversations_side_by_side() -> None:
    """Over one client and one renderer, with routing. All that is sampled is what the engine sampled."""
    renderer = ChatRenderer()
    samples: list[TrainingSample | None] = [None] * THREADS
    with (
        simulator.running(backend="vllm", num_layers=24, top_k=8) as engine,
        tito.TitoClient(engine.url, model=None, num_layers=24, top_k=8, experts="native") as client,
    ):

        def work(number: int) -> None:
            samples[number] = converse(client, renderer, number)

        with disturbed(tito.trim_memory, tito.memory_stats):
            at_once(work)
        records = engine.requests
    turns = {tuple(json.loads(record.body)["token_ids"]): record.samples[0] for record in records}
    assert len(turns) == THREADS * TURNS
    for number, sample in enumerate(samples):
        assert sample is not None
        ids = sample.token_ids.tolist()
        ours = [prompt for prompt in turns if tuple(ids[: len(prompt)]) == prompt]
        assert len(ours) == TURNS, f"conversation {number} has turns of others"
        sampled = np.zeros(len(ids), bool)
        for prompt in ours:
            tokens = turns[prompt].token_ids
            end = len(prompt) + len(tokens)
            assert np.array_equal(sample.token_ids[len(prompt) : end], tokens)
            sampled[len(prompt) : end] = True
        assert np.array_equal(sample.mask, sampled)
