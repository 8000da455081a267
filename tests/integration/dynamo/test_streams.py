"""Streams through the real Dynamo frontend: what its engine sampled, whole, interrupted and resumed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import HttpLibrary
from dynamo_tito.control import make_admin
from dynamo_tito.rollout import Rollout, TrainingSample
from dynamo_tito.simulator.model import Model
from support.chat import ShortRenderer
from support.dynamo_stack import DynamoStack, Worker

PROMPT = [5, 6, 700, 8_000, 31_996]
SHAPE: dict[str, Any] = {"num_layers": 4, "top_k": 2}
STREAMED = ["dynamo_chat", "dynamo_completions", "sglang_generate"]
RNG = np.random.default_rng(12)


def options(stack: DynamoStack, transport: str, http: HttpLibrary = "native") -> dict[str, Any]:
    shape = SHAPE if transport == "sglang_generate" else {}
    return {
        "base_url": stack.url, "model": stack.model, "transport": transport, "http": http, "timeout": 60.0,
        "trust_env": False, "experts": "native", **shape,
    }  # fmt: skip


def truth(prompt: list[int], completion: tito.Completion, *, whole: bool = True) -> None:
    """The completion is what the engine's model says of its tokens."""
    model = Model(**SHAPE)
    ids = completion.token_ids.tolist()
    sample = model.sample(prompt, 64, version="unknown", index=completion.index)
    assert ids == sample.token_ids.tolist()[: len(ids)]
    assert completion.logprobs is not None
    if whole:
        np.testing.assert_array_equal(completion.logprobs, sample.logprobs[: len(ids)])
        assert completion.routed_experts is not None
        given = model.given(prompt, ids, version="unknown")
        np.testing.assert_array_equal(completion.routed_experts.array, given.routing(completion.routed_experts.start))
    else:
        # Dynamo writes single precision before the last event.
        np.testing.assert_array_equal(np.float32(completion.logprobs), np.float32(sample.logprobs[: len(ids)]))
        assert completion.routed_experts is None


@pytest.mark.parametrize("http", ["native", "httpx"])
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("transport", STREAMED)
def test_a_stream_is_what_the_engine_sampled(
    dynamo_stack: DynamoStack, worker: Worker, transport: str, chunk: int, http: HttpLibrary
) -> None:
    worker.control(chunk=chunk)

    async def main() -> tuple[list[tito.StreamDelta], tito.Completion]:
        async with AsyncTitoClient(**options(dynamo_stack, transport, http)) as client:
            params = {"max_tokens": 8, "logprobs": 1}
            async with client.stream(PROMPT, sampling_params=params) as stream:
                deltas = [delta async for delta in stream]
            return deltas, stream.completion

    deltas, completion = asyncio.run(main())
    truth(PROMPT, completion)
    assert len(completion.token_ids) == 8
    np.testing.assert_array_equal(np.concatenate([delta.token_ids for delta in deltas]), completion.token_ids)
    assert len(worker.requests()) == 1


@pytest.mark.parametrize("transport", STREAMED)
def test_a_stream_is_the_answer_in_one_piece(dynamo_stack: DynamoStack, worker: Worker, transport: str) -> None:
    with TitoClient(**options(dynamo_stack, transport)) as client:
        asked: dict[str, Any] = {"sampling_params": {"max_tokens": 6, "logprobs": 2}}
        whole, streamed = client.generate(PROMPT, **asked), client.generate(PROMPT, stream=True, **asked)
    for name in ("token_ids", "logprobs", "prompt_token_ids", "finish_reason", "stop_reason", "weight_versions"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(whole, name), strict=True)
    assert whole.routed_experts is not None
    assert whole.routed_experts.equals(streamed.routed_experts)
    assert len(worker.requests()) == 2


def test_a_server_without_answers_in_one_piece_is_asked_for_streams(dynamo_stack: DynamoStack, worker: Worker) -> None:
    """Dynamo 1.6.1 answers SGLang's own route only as a stream: learnt once, and nothing is sampled for it."""
    with TitoClient(**options(dynamo_stack, "sglang_generate")) as client:
        for _ in range(3):
            truth(PROMPT, client.generate(PROMPT, sampling_params={"max_tokens": 5}))
        assert len(worker.requests()) == 3
        if dynamo_stack.version < "1.7":
            with pytest.raises(tito.ServerError) as caught:
                client.generate(PROMPT, sampling_params={"max_tokens": 5}, stream=False)
            assert caught.value.status == 501
            assert len(worker.requests()) == 3


@pytest.mark.parametrize("fields", [["engine_data"], ["engine_data", "detailed_finish_reason"]])
@pytest.mark.usefixtures("worker")
def test_two_choices_of_a_chat(dynamo_stack: DynamoStack, fields: list[str]) -> None:
    """In one piece nvext holds one choice's data; a stream has both."""
    nvext = {"token_data": PROMPT, "extra_fields": fields}
    body = {"model": dynamo_stack.model, "messages": [{"role": "user", "content": "(tokens)"}], "max_tokens": 7, "n": 2}
    asked = body | {"logprobs": True, "nvext": nvext, "stream": True}
    with httpx.Client(base_url=dynamo_stack.url, timeout=60.0, trust_env=False) as client:
        content = client.post("/v1/chat/completions", json=asked).raise_for_status().content
    decoder = tito.StreamDecoder(wire="dynamo_chat", prompt_token_ids=PROMPT)
    for at in range(0, len(content), 64):
        decoder.feed_choices(content[at : at + 64])
    found = decoder.finish_choices()
    assert [each.index for each in found] == [0, 1]
    for each in found:
        truth(PROMPT, each)


@pytest.mark.parametrize("transport", STREAMED)
def test_an_error_in_a_stream_is_the_servers(dynamo_stack: DynamoStack, worker: Worker, transport: str) -> None:
    worker.control(error_after=3)
    with TitoClient(**options(dynamo_stack, transport)) as client:
        for how in ("raise", "return"):
            with pytest.raises(tito.ServerError):
                client.generate(PROMPT, sampling_params={"max_tokens": 6}, stream=True, on_interrupt=how)
    # An engine's failure is not sampled again.
    assert len(worker.requests()) == 2


@pytest.mark.parametrize("http", ["native", "httpx"])
@pytest.mark.parametrize("transport", STREAMED)
def test_a_deadline_gives_what_was_sampled(
    dynamo_stack: DynamoStack, worker: Worker, transport: str, http: HttpLibrary
) -> None:
    worker.control(delay=0.05)

    async def main() -> tito.Completion:
        async with AsyncTitoClient(**options(dynamo_stack, transport, http)) as client:
            return await client.generate(
                PROMPT, sampling_params={"max_tokens": 64}, deadline=2.0, stream=True, on_interrupt="return"
            )

    completion = asyncio.run(main())
    assert (completion.aborted, completion.complete) == (True, False)
    assert 3 < len(completion.token_ids) < 64
    truth(PROMPT, completion, whole=False)
    assert len(worker.requests()) == 1


@pytest.mark.parametrize("transport", ["dynamo_chat", "dynamo_completions"])
def test_a_request_of_ones_own_is_aborted_by_its_id(dynamo_stack: DynamoStack, worker: Worker, transport: str) -> None:
    worker.control(delay=0.05)

    async def main() -> tuple[tito.Completion, tito.Completion]:
        async with AsyncTitoClient(**options(dynamo_stack, transport), require_routed_experts=True) as client:
            params = {"max_tokens": 20}
            other = asyncio.create_task(client.generate(PROMPT, sampling_params=params, request_id="other"))
            async with client.stream(PROMPT, sampling_params=params, request_id="mine") as stream:
                async for delta in stream:
                    if delta.start == 4:
                        with pytest.raises(ValueError, match="no request 'strange'"):
                            await client.abort("strange", admin_base_url=worker.system_url)
                        await client.abort("mine", admin_base_url=worker.system_url)
            return stream.completion, await other

    mine, other = asyncio.run(main())
    assert (mine.aborted, mine.finish_reason, mine.complete) == (True, "abort", True)
    assert 5 <= len(mine.token_ids) < 20
    assert (other.aborted, len(other.token_ids)) == (False, 20)
    for completion in (mine, other):
        truth(PROMPT, completion)


# --- rollouts ---


def nameless(sample: TrainingSample) -> TrainingSample:
    """Without what the last event alone says, and in the precision of those before it."""
    sample.turns = tuple(dataclasses.replace(turn, request_id=None, weight_versions=()) for turn in sample.turns)
    sample.logprobs = sample.logprobs.astype(np.float32).astype(np.float64)
    return sample


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
@pytest.mark.parametrize("transport", STREAMED)
def test_a_turn_that_is_interrupted_is_the_turn_that_is_not(
    dynamo_stack: DynamoStack, worker: Worker, transport: str, mode: Any
) -> None:
    """Each token depends on those before it, so a lost, doubled or moved one changes all that follow."""
    worker.control(delay=0.01, chunk=2)
    say = [{"role": "user", "content": "Hi"}]
    params = {"max_tokens": 40}

    async def main() -> tuple[Rollout, list[Rollout]]:
        admin = await make_admin(worker.system_url, "dynamo", trust_env=False)
        async with AsyncTitoClient(**options(dynamo_stack, transport), require_routed_experts=True) as client:
            uncut = Rollout(ShortRenderer())
            await uncut.step(client, say, sampling_params=params)
            found = []
            for way in ("pause", "cancelling", "deadline", "cancelling"):
                rollout, after = Rollout(ShortRenderer()), float(RNG.uniform(0.02, 0.2))
                arguments: dict[str, Any] = {"deadline": after} if way == "deadline" else {}
                step = rollout.step(
                    client, say, sampling_params=params, stream=True, on_interrupt="return", **arguments
                )
                task = asyncio.create_task(step)
                await asyncio.sleep(after)
                pause = asyncio.create_task(admin.pause(mode))
                if way == "cancelling":
                    await asyncio.sleep(0.02)
                    task.cancel()
                if not (way == "pause" and mode == "keep"):
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                await pause
                await admin.resume()
                if not task.done():
                    await task
                while (turn := rollout.head) is None or turn.aborted:
                    begun = turn is not None or rollout.interrupted is not None
                    rest = rollout.resume(client) if begun else rollout.step(client, say, sampling_params=params)
                    await rest
                found.append(rollout)
        await admin.aclose()
        return uncut, found

    uncut, found = asyncio.run(main())
    segments = [len(rollout.turns[0].segments) for rollout in found]
    assert sum(count > 1 for count in segments) >= 2
    # Nothing was asked for twice.
    assert len(worker.requests()) == 1 + sum(segments)
    for rollout in found:
        assert nameless(rollout.sample()).equals(nameless(uncut.sample()))
        assert rollout.messages == uncut.messages
