"""Streams of a real vLLM: the same completion as the answer in one piece, each value held against a forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary
from support.vllm_live import compare, running, until_running
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

RNG = np.random.default_rng(10)
PROMPT = RNG.integers(0, 340, 21).tolist()
GENERATE, CHAT = "/inference/v1/generate", "/v1/chat/completions"


def client_of(server: VllmServer, http: HttpLibrary = "native", **options: Any) -> AsyncTitoClient:
    return AsyncTitoClient(
        server.url, model=MODEL, transport="vllm_generate", http=http, timeout=300.0, trust_env=False, **options
    )


def check(truth: Truth, prompt: Sequence[int], completion: tito.Completion, *, routed: bool = True) -> bool:
    ids = [*prompt, *completion.token_ids.tolist()]
    experts = completion.routed_experts
    assert (experts is not None) == routed
    rows, start = (None, 0) if experts is None else (experts.array, experts.start)
    assert rows is None or start + len(rows) == len(ids) - 1
    return compare(truth.one("moe_a", ids), ids, len(prompt), completion.logprobs, rows, start)


def joined(deltas: Sequence[tito.StreamDelta], completion: tito.Completion) -> None:
    """The deltas tile the completion."""
    ends = np.cumsum([0, *(len(delta.token_ids) for delta in deltas)])
    assert [delta.start for delta in deltas] == ends[:-1].tolist()
    np.testing.assert_array_equal(np.concatenate([delta.token_ids for delta in deltas]), completion.token_ids)
    logprobs: Any = [delta.logprobs for delta in deltas]
    np.testing.assert_array_equal(np.concatenate(logprobs), completion.logprobs)
    assert completion.top_logprobs is not None
    tops: Any = [delta.top_logprobs for delta in deltas]
    np.testing.assert_array_equal(np.concatenate([top.token_ids for top in tops]), completion.top_logprobs.token_ids)
    assert [delta.finish_reason for delta in deltas][-1] == completion.finish_reason


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_every_value_of_streams_is_the_models(moe: VllmServer, truth: Truth, http: HttpLibrary) -> None:
    cases = [
        (RNG.integers(0, 340, prompt).tolist(), start, length, int(RNG.integers(1 << 30)))
        for prompt, length in ((1, 1), (2, 9), (16, 17), (31, 5), (64, 12), (130, 20))
        for start in (None, prompt // 2, prompt)
    ]

    async def one(client: AsyncTitoClient, prompt: list[int], start: int | None, length: int, seed: int) -> Any:
        params = {"max_tokens": length, "logprobs": 3, "ignore_eos": True, "seed": seed}
        async with client.stream(prompt, sampling_params=params, routed_experts_prompt_start=start) as stream:
            deltas = [delta async for delta in stream]
        return deltas, stream.completion

    async def main() -> list[Any]:
        async with client_of(moe, http, max_concurrency=6, require_routed_experts=True) as client:
            return await asyncio.gather(*(one(client, *case) for case in cases))

    compared = 0
    for (prompt, start, length, _), (deltas, completion) in zip(cases, asyncio.run(main()), strict=True):
        joined(deltas, completion)
        assert len(completion.token_ids) == length
        assert completion.routed_experts.start == (start or 0)
        assert completion.timing is not None
        assert (np.diff(completion.timing.arrivals) >= 0).all()
        compared += check(truth, prompt, completion)
    assert compared >= len(cases) - 2


def test_a_stream_is_the_answer_in_one_piece(moe: VllmServer) -> None:
    """With the same seed, bit by bit. The first call fills the cache of the prompt for both."""
    params = {"max_tokens": 24, "logprobs": 2, "ignore_eos": True, "seed": 5, "temperature": 0.7}
    with TitoClient(moe.url, model=MODEL, transport="vllm_generate", timeout=300.0, trust_env=False) as client:
        _, whole, streamed = (
            client.generate(PROMPT, sampling_params=params, stream=how) for how in (False, False, True)
        )
        with client.stream(PROMPT, sampling_params=params) as stream:
            deltas = list(stream)
    joined(deltas, stream.completion)
    for found in (streamed, stream.completion):
        for name in ("token_ids", "logprobs", "prompt_token_ids", "finish_reason", "weight_versions", "aborted"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), strict=True)
        for name in ("top_logprobs", "routed_experts"):
            assert getattr(found, name).equals(getattr(whole, name))
        assert found.sources == whole.sources


def raw(server: VllmServer, path: str, body: dict[str, Any]) -> bytes:
    with httpx.Client(base_url=server.url, timeout=300.0, trust_env=False) as client:
        return client.post(path, json=body | {"stream": True}).raise_for_status().content


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}])
@pytest.mark.parametrize("route", [GENERATE, CHAT])
def test_two_choices(moe: VllmServer, truth: Truth, route: str, options: dict[str, Any]) -> None:
    params: dict[str, Any] = {"max_tokens": 9, "n": 2, "seed": 1, "ignore_eos": True}
    if route == GENERATE:
        body = {"token_ids": PROMPT, "sampling_params": params | {"logprobs": 1}, "return_token_ids": True}
    else:
        messages = [{"role": "user", "content": "the fox"}]
        body = {"model": MODEL, "messages": messages, "logprobs": True, "return_token_ids": True, **params}
    content = raw(moe, route, body | options)
    wire: tito.Wire = "vllm_generate" if route == GENERATE else "vllm_chat"
    decoder = tito.StreamDecoder(wire=wire)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for at in range(0, len(content), 100):
        for delta in decoder.feed_choices(content[at : at + 100]):
            assert delta.start == len(seen[delta.index])
            seen[delta.index] += delta.token_ids.tolist()
    first, second = decoder.finish_choices()
    assert decoder.done
    for completion in (first, second):
        assert seen[completion.index] == completion.token_ids.tolist()
        prompt: Any = completion.prompt_token_ids
        # A chat stream has no routed experts.
        check(truth, prompt.tolist(), completion, routed=route == GENERATE)
    assert seen[0] != seen[1]


def test_what_is_whole_of_a_stream_that_breaks_off_is_the_models(moe: VllmServer, truth: Truth) -> None:
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 20, "logprobs": 1, "ignore_eos": True}}
    content = raw(moe, GENERATE, body)
    whole = tito.StreamDecoder(wire="vllm_generate", prompt_len=len(PROMPT))
    whole.feed(content)
    ids = [*PROMPT, *whole.finish().token_ids.tolist()]
    forward, lengths = truth.one("moe_a", ids), set()
    for end in RNG.integers(0, len(content), 60).tolist():
        decoder = tito.StreamDecoder(wire="vllm_generate", prompt_len=len(PROMPT), deltas=False)
        assert decoder.feed(content[:end]) is None
        found = decoder.abandon()
        count = len(found.token_ids)
        assert found.token_ids.tolist() == ids[len(PROMPT) :][:count]
        assert found.logprobs is not None
        compare(forward, ids, len(PROMPT), found.logprobs, None)
        if found.finish_reason == "abort":
            assert (found.aborted, found.complete, found.routed_experts) == (True, False, None)
        lengths.add(count)
    assert len(lengths) > 10


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_a_deadline_gives_what_was_sampled(moe: VllmServer, truth: Truth, http: HttpLibrary) -> None:
    async def main() -> tito.Completion:
        async with client_of(moe, http) as client:
            found = await client.generate(
                PROMPT,
                sampling_params={"max_tokens": 400, "ignore_eos": True},
                deadline=1.0,
                on_interrupt="return",
                stream=True,
            )
            await until_running(moe, 0)
            return found

    completion = asyncio.run(main())
    assert (completion.aborted, completion.complete, completion.finish_reason) == (True, False, "abort")
    assert 0 < len(completion.token_ids) < 400
    check(truth, PROMPT, completion, routed=False)


def test_a_client_aborts_its_own_requests_only(moe: VllmServer, truth: Truth) -> None:
    async def main() -> tuple[tito.Completion, tito.Completion]:
        params = {"max_tokens": 60, "ignore_eos": True}
        async with client_of(moe) as client, client_of(moe) as stranger:
            other = asyncio.create_task(stranger.generate(PROMPT, sampling_params=params, request_id="b"))
            async with client.stream(PROMPT, sampling_params=params | {"max_tokens": 400}, request_id="a") as stream:
                async for delta in stream:
                    if delta.start >= 5 and not aborted:
                        with pytest.raises(ValueError, match="b"):
                            await client.abort("b")
                        await client.abort("a")
                        aborted.append(delta.start)
            return stream.completion, await other

    aborted: list[int] = []
    mine, other = asyncio.run(main())
    assert (mine.aborted, other.aborted, len(other.token_ids)) == (True, False, 60)
    assert aborted[0] <= len(mine.token_ids) < 400
    check(truth, PROMPT, mine)
    check(truth, PROMPT, other)


def test_a_caller_who_leaves_a_stream_stops_the_engine(moe: VllmServer) -> None:
    async def main() -> None:
        async with client_of(moe) as client:
            async for _ in client.stream(PROMPT, sampling_params={"max_tokens": 400, "ignore_eos": True}):
                break
            await until_running(moe, 0)
            async with client.stream(PROMPT, sampling_params={"max_tokens": 400, "ignore_eos": True}) as stream:
                await anext(aiter(stream))
                assert await running(moe) == 1
                with pytest.raises(RuntimeError):
                    _ = stream.completion
            await until_running(moe, 0)

    asyncio.run(main())
