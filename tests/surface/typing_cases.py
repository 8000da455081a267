"""What type checkers see. mypy checks this file; running it is ``test_typing``'s business."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import dynamo_tito as tito
from dynamo_tito import control, rollout, simulator


def results(body: bytes) -> None:
    completion = tito.decode(body, wire="vllm_generate", prompt_len=3)
    assert_type(completion, tito.Completion)
    assert_type(tito.decode_choices(body, wire="vllm_generate"), list[tito.Completion])
    assert_type(completion.token_ids, NDArray[np.int32])
    assert_type(completion.logprobs, NDArray[np.float64] | NDArray[np.float32] | None)
    assert_type(completion.prompt_token_ids, NDArray[np.int32] | None)
    assert_type(completion.top_logprobs, tito.TopLogprobs | None)
    assert_type(completion.prompt_logprobs, tito.PromptLogprobs | None)
    assert_type(completion.routed_experts, tito.RoutedExperts | None)
    assert_type(completion.sampling_mask, tito.SamplingMask | None)
    assert_type(completion.stop_reason, int | str | None)
    assert_type(completion.aborted, bool | None)
    assert_type(completion.usage, dict[str, Any] | None)
    assert_type(completion.sources, Mapping[str, str])
    assert_type(completion.complete, bool)
    if completion.top_logprobs is not None:
        for ids, scores in completion.top_logprobs:
            assert_type(ids, NDArray[np.int32])
            assert_type(scores, NDArray[np.float64] | NDArray[np.float32])
    if completion.sampling_mask is not None:
        assert_type(completion.sampling_mask[0], NDArray[np.int32])
    assert_type(tito.encode_token_ids(b"[", completion.token_ids, b"]"), bytes)
    assert_type(tito.build_info(), dict[str, str])


def bodies(body: bytes) -> None:
    buffer = tito.Body(len(body))
    buffer.append(body)
    buffer.append(memoryview(b" "))
    for form in (body, bytearray(body), memoryview(body), buffer):
        assert_type(tito.decode(form, wire="vllm_generate"), tito.Completion)
    assert_type(memoryview(buffer).nbytes, int)
    assert_type(buffer.frozen, bool)


async def streams(ours: tito.AsyncTitoClient, theirs: tito.TitoClient) -> None:
    async with ours.stream([1, 2], on_interrupt="return") as stream:
        assert_type(stream, tito.AsyncTitoStream)
        async for delta in stream:
            assert_type(delta, tito.StreamDelta)
    assert_type(stream.completion, tito.Completion)
    assert_type(stream.completion.timing, tito.Timing | None)
    assert_type(await ours.generate([1], stream=True), tito.Completion)
    with theirs.stream([1, 2]) as blocking:
        assert_type([delta.finish_reason for delta in blocking], list[str | None])
    theirs.abort("request", admin_base_url=["http://worker:9090"])


async def scores(ours: tito.AsyncTitoClient, theirs: tito.TitoClient, ids: NDArray[np.int32], body: bytes) -> None:
    assert_type(await ours.score(ids, start=2), tito.PromptLogprobs)
    assert_type(theirs.score([1, 2], top_k=1), tito.PromptLogprobs)
    assert_type(await ours.score_many([ids, [1]], start=[1, 0]), list[tito.PromptLogprobs | tito.TitoError])
    await ours.score_many([ids], concurrency=asyncio.Semaphore(4))
    assert_type(theirs.score_many([ids], progress=print, top_k=1), list[tito.PromptLogprobs | tito.TitoError])
    scored = tito.decode_prompt_logprobs(body, wire="vllm_generate", prompt_token_ids=ids, start=1)
    assert_type(scored, tito.PromptLogprobs)
    assert_type(tito.divergence(scored.logprobs, scored, np.isfinite(scored.logprobs)), tito.Divergence)


def attributes(error: tito.DecodeError) -> None:
    assert_type(error.kind, str)
    assert_type(error.path, str)
    assert_type(error.offset, int | None)


def mistakes(body: bytes) -> None:
    tito.decode(body)  # type: ignore[call-arg]
    tito.decode(body, "vllm_generate")  # type: ignore[call-arg]
    tito.decode(body, wire="openai")  # type: ignore[arg-type]
    tito.decode("text", wire="vllm_generate")  # type: ignore[arg-type]
    tito.decode(body, wire="vllm_generate", experts="int8")  # type: ignore[arg-type]
    tito.decode(body=body, wire="vllm_generate")  # type: ignore[call-arg]
    tito.decode(body, wire="vllm_generate").token_ids = np.zeros(1, np.int32)  # type: ignore[misc]
    tito.decode(body, wire="vllm_generate").routed_experts.array  # type: ignore[union-attr]  # noqa: B018


async def keywords(ours: tito.AsyncTitoClient, theirs: tito.TitoClient, given: tito.GenerateOptions) -> None:
    assert_type(await ours.generate([1], sampling_params={"max_tokens": 1}, deadline=1.0), tito.Completion)
    assert_type(theirs.generate([1], **given), tito.Completion)
    assert_type(await ours.tokenize([{"role": "user", "content": ""}]), list[int])
    assert_type(theirs.detokenize([1]), str)
    await ours.generate([1], deadline="soon")  # type: ignore[arg-type]
    await ours.generate([1], temperature=1.0)  # type: ignore[call-arg]
    theirs.generate([1], transport="openai")  # type: ignore[arg-type]
    theirs.score([1], top_logprobs=1)  # type: ignore[call-arg]
    await ours.score_many([[1]], request_id="r")  # type: ignore[call-arg]


def engines(mine: tito.MockTransport) -> None:
    blocking: tito.HttpEngine = mine
    asynchronous: tito.AsyncHttpEngine = mine
    tito.TitoClient("http://h", model=None, http_client=blocking)
    tito.AsyncTitoClient("http://h", model=None, http_client=asynchronous)


async def turns(
    conversation: rollout.Rollout, client: tito.AsyncTitoClient, blocking: tito.TitoClient, answer: tito.Completion
) -> None:
    assert_type(await conversation.step(client, []), rollout.Turn)
    assert_type(await conversation.resume(client), rollout.Turn)
    assert_type(conversation.append(answer), rollout.Turn)
    assert_type(blocking.generate(**conversation.request([])), tito.Completion)
    assert_type(conversation.sample(final_row="drop"), rollout.TrainingSample)
    conversation.sample(final_row="omitted")  # type: ignore[arg-type]


async def workers(client: tito.AsyncTitoClient) -> None:
    async with await control.Fleet.connect("http://h", backend="dynamo", model="m") as fleet:
        result = await fleet.update_weights("/weights", canary=None)
        assert_type(result, control.FleetResult)
        assert_type([worker.verified for worker in result.workers], list[bool | None])
        await fleet.update_weights("/weights", policy="later")  # type: ignore[arg-type]
    assert_type(await client.fleet(), control.Fleet)


def page(sample: rollout.TrainingSample, completion: tito.Completion, scored: tito.PromptLogprobs) -> None:
    assert_type(tito.view(sample, against=scored), tito.Page)
    assert_type(tito.view([completion, sample], against=[sample, sample.logprobs], tokenizer="name").html, str)
    tito.view(completion, against=scored.logprobs, prompt_len=3).save("page.html")
    tito.view(5)  # type: ignore[arg-type]


def engine() -> None:
    with simulator.running(backend="vllm") as server:
        assert_type(server.url, str)
        server.inject(simulator.Fault(kind="reset"))
        simulator.Fault(kind="tired")  # type: ignore[arg-type]
