"""The clients over every HTTP library against a real vLLM: every value equals that of a forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary
from dynamo_tito._types import PromptLogprobs
from support.vllm_live import TOLERANCE
from support.vllm_stack import MAX_MODEL_LEN, MODEL, VllmServer
from support.vllm_truth import Truth

PROMPT = np.random.default_rng(3).integers(0, 340, 40).tolist()


@pytest.fixture(scope="module")
def dense(dense_pair: list[VllmServer]) -> VllmServer:
    return dense_pair[0]


@pytest.fixture
def client(dense: VllmServer) -> Iterator[TitoClient]:
    with TitoClient(dense.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False) as client:
        yield client


def check(
    truth: Truth, model: str, prompt: Sequence[int], completion: tito.Completion, *, routed: bool = False
) -> None:
    """The completion's values are the model's own."""
    ids = [*prompt, *completion.token_ids.tolist()]
    forward = truth.one(model, ids)
    assert completion.logprobs is not None
    np.testing.assert_allclose(completion.logprobs, forward.sampled(ids, len(prompt)), rtol=0, atol=TOLERANCE)
    if routed:
        found = completion.routed_experts
        assert found is not None
        np.testing.assert_array_equal(found.array, forward.experts[found.start : len(ids) - 1])


# --- generate, over every library ---


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_forty_at_once(moe: VllmServer, truth: Truth, http: HttpLibrary) -> None:
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, 340, int(length)).tolist() for length in rng.integers(1, 60, 40)]

    async def main() -> list[tito.Completion]:
        async with AsyncTitoClient(
            moe.url, model=MODEL, transport="vllm_generate", http=http, timeout=300.0, trust_env=False
        ) as client:
            calls = [
                client.generate(
                    prompt,
                    sampling_params={"max_tokens": 5, "ignore_eos": True},
                    routed_experts_prompt_start=len(prompt) // 2,
                )
                for prompt in prompts
            ]
            return await asyncio.gather(*calls)

    completions = asyncio.run(main())
    truth("moe_a", [[*p, *c.token_ids.tolist()] for p, c in zip(prompts, completions, strict=True)])
    for prompt, completion in zip(prompts, completions, strict=True):
        check(truth, "moe_a", prompt, completion, routed=True)


def test_the_blocking_client(moe: VllmServer, truth: Truth) -> None:
    with TitoClient(moe.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False) as client:
        completion = client.generate(PROMPT, sampling_params={"max_tokens": 5, "ignore_eos": True})
    check(truth, "moe_a", PROMPT, completion, routed=True)


@pytest.mark.parametrize("params", [{"top_k": 3}, {"top_p": 0.3}, {"min_p": 0.5}, {"temperature": 0.5}])
def test_a_truncated_distribution_samples_inside_and_reports_the_models_own_logprobs(
    client: TitoClient, truth: Truth, params: dict[str, Any]
) -> None:
    completion = client.generate(PROMPT, sampling_params={"max_tokens": 20, "ignore_eos": True, "seed": 1, **params})
    check(truth, "dense_a", PROMPT, completion)
    if "top_k" in params:
        ids = [*PROMPT, *completion.token_ids.tolist()]
        logprobs = truth.one("dense_a", ids).logprobs
        for at in range(len(PROMPT), len(ids)):
            assert ids[at] in np.argsort(-logprobs[at - 1])[:3]


def test_several_choices(dense: VllmServer, truth: Truth) -> None:
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 6, "n": 3, "logprobs": 1, "ignore_eos": True}}
    answer = httpx.post(f"{dense.url}/inference/v1/generate", json=body, timeout=120.0, trust_env=False)
    choices = tito.decode_choices(answer.content, wire="vllm_generate", prompt_token_ids=PROMPT)
    assert len(choices) == 3
    for completion in choices:
        check(truth, "dense_a", PROMPT, completion)


# --- chat ---


def chat(server: VllmServer, **members: Any) -> tuple[list[int], bytes]:
    """The prompt's tokens, and the answer of vLLM's chat route."""
    messages = [{"role": "user", "content": "the quick fox"}]
    with httpx.Client(base_url=server.url, timeout=120.0, trust_env=False) as client:
        tokens = client.post("/tokenize", json={"model": MODEL, "messages": messages}).raise_for_status().json()
        body = {"model": MODEL, "messages": messages, "max_tokens": 6, "return_token_ids": True, "logprobs": True}
        answer = client.post("/v1/chat/completions", json=body | {"top_logprobs": 0, **members}).raise_for_status()
    return tokens["tokens"], answer.content


@pytest.mark.parametrize("start", [None, 7])
def test_the_completions_route(moe: VllmServer, truth: Truth, start: int | None) -> None:
    with TitoClient(
        moe.url, model=MODEL, transport="vllm_completions", require_routed_experts=True, timeout=120.0, trust_env=False
    ) as client:
        completion = client.generate(PROMPT, sampling_params={"max_tokens": 9}, routed_experts_prompt_start=start)
        scored = client.score([*PROMPT, *completion.token_ids.tolist()], start=len(PROMPT))
    assert (completion.prompt_token_ids is not None, len(completion.token_ids)) == (True, 9)
    check(truth, "moe_a", PROMPT, completion, routed=True)
    assert completion.logprobs is not None
    np.testing.assert_allclose(scored.logprobs[len(PROMPT) :], completion.logprobs, rtol=0, atol=TOLERANCE)


def test_the_chat_route(moe: VllmServer, truth: Truth) -> None:
    prompt, body = chat(moe)
    completion = tito.decode(body, wire="vllm_chat", prompt_token_ids=prompt)
    check(truth, "moe_a", prompt, completion, routed=True)


def test_the_models_sampling_defaults_leak_into_chat_unless_neutral_values_are_sent(
    dense: VllmServer, truth: Truth
) -> None:
    """The generation_config says top_k 20, so without neutral values the 21st best token is never sampled."""

    def ranks(**members: Any) -> list[int]:
        prompt, body = chat(dense, max_tokens=200, ignore_eos=True, seed=5, **members)
        completion = tito.decode(body, wire="vllm_chat", prompt_token_ids=prompt)
        ids = [*prompt, *completion.token_ids.tolist()]
        forward = truth.one("dense_a", ids)
        sampled = forward.sampled(ids, len(prompt))
        better: list[int] = (forward.logprobs[len(prompt) - 1 : -1] > sampled[:, None]).sum(axis=1).tolist()
        return better

    assert max(ranks()) < 20
    assert max(ranks(temperature=1.0, top_p=1.0, top_k=-1, min_p=0.0)) >= 20


# --- score ---


@pytest.mark.parametrize("start", [0, 1, 20, 39, 40])
@pytest.mark.parametrize("top_k", [0, 3])
def test_scores_are_the_models_own(client: TitoClient, truth: Truth, start: int, top_k: int) -> None:
    scored = client.score(PROMPT, start=start, top_k=top_k)
    forward = truth.one("dense_a", PROMPT)
    expected = np.concatenate([[np.nan], forward.sampled(PROMPT, 1)])
    expected[:start] = np.nan
    np.testing.assert_allclose(scored.logprobs, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_many_scores(moe: VllmServer, truth: Truth, http: HttpLibrary) -> None:
    sequences = [PROMPT[:length] for length in range(2, 33)]

    async def main() -> list[PromptLogprobs | tito.TitoError]:
        async with AsyncTitoClient(
            moe.url, model=MODEL, transport="vllm_generate", http=http, timeout=300.0, trust_env=False
        ) as client:
            return await client.score_many(sequences, concurrency=8)

    forward = truth.one("moe_a", PROMPT)
    for ids, scored in zip(sequences, asyncio.run(main()), strict=True):
        assert isinstance(scored, PromptLogprobs)
        expected = (
            forward.sampled(ids, 1) if len(ids) == len(PROMPT) else forward.logprobs[np.arange(len(ids) - 1), ids[1:]]
        )
        np.testing.assert_allclose(scored.logprobs[1:], expected, rtol=0, atol=TOLERANCE)


def test_sampler_and_scorer_agree(client: TitoClient) -> None:
    completion = client.generate(PROMPT, sampling_params={"max_tokens": 30, "ignore_eos": True})
    ids = np.concatenate([PROMPT, completion.token_ids])
    scored = client.score(ids, start=len(PROMPT))
    assert completion.logprobs is not None
    sampled = np.concatenate([np.full(len(PROMPT), np.nan), completion.logprobs])
    found = tito.divergence(sampled, scored.logprobs, np.arange(len(ids)) >= len(PROMPT))
    assert found.count == 30
    assert found.max_abs < TOLERANCE


# --- usage, and the longest prompt ---


def counts_agree(server: VllmServer) -> None:
    """On every route and length, the server counts the tokens that it sends."""
    for length in (1, 16, 33, 128):
        prompt = list(range(length))
        body = {"token_ids": prompt, "sampling_params": {"max_tokens": 3, "logprobs": 1, "ignore_eos": True}}
        answer = httpx.post(f"{server.url}/inference/v1/generate", json=body, timeout=120.0, trust_env=False)
        completion = tito.decode(answer.content, wire="vllm_generate", prompt_token_ids=prompt)
        assert completion.usage is None or (
            completion.usage["prompt_tokens"] == length
            and completion.usage["completion_tokens"] == len(completion.token_ids)
        )
    prompt, answered = chat(server)
    completion = tito.decode(answered, wire="vllm_chat", prompt_token_ids=prompt)
    assert completion.usage is not None
    assert completion.usage["prompt_tokens"] == len(prompt)
    assert completion.usage["completion_tokens"] == len(completion.token_ids)


def test_the_servers_own_counts_agree(dense: VllmServer) -> None:
    counts_agree(dense)


def test_the_servers_own_counts_agree_with_routed_experts(moe: VllmServer) -> None:
    counts_agree(moe)


def test_the_longest_prompt(client: TitoClient) -> None:
    completion = client.generate([5] * (MAX_MODEL_LEN - 1), sampling_params={"max_tokens": 1})
    assert len(completion.token_ids) == 1
    with pytest.raises((tito.OverlongPromptError, tito.BadRequestError)):
        client.generate([5] * MAX_MODEL_LEN, sampling_params={"max_tokens": 1})
