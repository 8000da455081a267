"""Scoring through the real Dynamo frontend, on every route: the values are those of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary, RendererTransport
from dynamo_tito._types import PromptLogprobs
from dynamo_tito.simulator.model import Model
from support.dynamo_stack import DynamoStack, Worker

OPENAI: list[RendererTransport] = ["dynamo_chat", "dynamo_completions"]
TRANSPORTS: list[RendererTransport] = [*OPENAI, "vllm_generate"]
IDS = np.random.default_rng(5).integers(256, 31_900, 50).tolist()


@pytest.fixture
def client(dynamo_stack: DynamoStack) -> Iterator[TitoClient]:
    with TitoClient(dynamo_stack.url, model=dynamo_stack.model, timeout=60.0, trust_env=False) as client:
        yield client


def truth(worker: Worker, ids: list[int], start: int) -> Any:
    """What the engine on record gives these tokens, float32."""
    (version,) = {
        choice["version"] for event in worker.events() if event["event"] == "sampled" for choice in event["choices"]
    }
    values = Model().score(np.array(ids, np.int64), version=version).logprobs.astype(np.float32)
    values[: max(start, 1)] = np.nan
    return values


@pytest.mark.parametrize("start", [0, 1, 30, 50])
@pytest.mark.parametrize("top_k", [0, 4])
def test_equal_on_every_route_and_true(client: TitoClient, worker: Worker, top_k: int, start: int) -> None:
    found = [client.score(IDS, start=start, top_k=top_k, transport=transport) for transport in TRANSPORTS]
    expected = truth(worker, IDS, start)
    for one in found:
        assert one.logprobs.shape == (len(IDS),)
        np.testing.assert_array_equal(one.logprobs.astype(np.float32), expected)
        np.testing.assert_array_equal(one.top.offsets, found[0].top.offsets)
        np.testing.assert_array_equal(one.top.token_ids, found[0].top.token_ids)
        np.testing.assert_array_equal(one.top.logprobs.astype(np.float32), found[0].top.logprobs.astype(np.float32))
    assert len(worker.requests()) == len(TRANSPORTS)


@pytest.mark.usefixtures("worker")
def test_the_frontends_maps_have_no_order(dynamo_stack: DynamoStack, frontend: httpx.Client) -> None:
    """Else the test above would prove little: in many positions another token's entry comes first."""
    request = {
        "model": dynamo_stack.model,
        "messages": [{"role": "user", "content": "x"}],
        "prompt_logprobs": 4,
        "max_completion_tokens": 1,
        "nvext": {"token_data": IDS, "extra_fields": ["completion_token_ids"]},
    }
    maps = frontend.post("/v1/chat/completions", json=request).raise_for_status().json()["prompt_logprobs"]
    others_first = [next(iter(row)) != str(token) for row, token in zip(maps[1:], IDS[1:], strict=True)]
    assert 10 < sum(others_first) < len(others_first)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_token_is_sampled_and_no_routing_of_the_prompt_sent(
    client: TitoClient, dynamo_stack: DynamoStack, worker: Worker, transport: RendererTransport
) -> None:
    ids = np.random.default_rng(6).integers(256, 31_900, 4_000).tolist()
    worker.control(num_layers=48, top_k=8)
    with TitoClient(
        dynamo_stack.url, model=dynamo_stack.model, transport=transport, trust_env=False, max_response_bytes=400_000
    ) as small:
        found = small.score(ids)
    np.testing.assert_array_equal(found.logprobs.astype(np.float32), truth(worker, ids, 0))
    (event,) = [event for event in worker.events() if event["event"] == "sampled"]
    assert [len(choice["token_ids"]) for choice in event["choices"]] == [1]
    # A client without such a ceiling gets the same.
    assert found.equals(client.score(ids, transport=transport))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_was_sampled_scores_as_it_was_sampled(
    client: TitoClient, worker: Worker, transport: RendererTransport
) -> None:
    worker.control(chunk=5)
    completion = client.generate(IDS, transport=transport, sampling_params={"max_tokens": 20})
    ids = np.concatenate([IDS, completion.token_ids])
    scored = client.score(ids, start=len(IDS), transport=transport)
    assert completion.logprobs is not None
    sampled = np.arange(len(ids)) >= len(IDS)
    logprobs = np.concatenate([np.zeros(len(IDS)), completion.logprobs])
    found = tito.divergence(logprobs.astype(np.float32), scored.logprobs.astype(np.float32), sampled)
    assert found == tito.Divergence(20, 0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("library", ["native", "httpx"])
def test_many(dynamo_stack: DynamoStack, worker: Worker, transport: RendererTransport, library: HttpLibrary) -> None:
    sequences = [IDS[:length] for length in range(2, 40)]
    starts = [len(ids) // 2 for ids in sequences]

    async def main() -> list[PromptLogprobs | tito.TitoError]:
        async with AsyncTitoClient(
            dynamo_stack.url, model=dynamo_stack.model, transport=transport, http=library, trust_env=False
        ) as client:
            return await client.score_many(sequences, start=starts, concurrency=8)

    for found, ids, start in zip(asyncio.run(main()), sequences, starts, strict=True):
        assert isinstance(found, PromptLogprobs)
        np.testing.assert_array_equal(found.logprobs.astype(np.float32), truth(worker, ids, start))
