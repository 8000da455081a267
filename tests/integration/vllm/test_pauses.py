"""Aborts, pauses and cancelled calls against a real vLLM: answers are whole, and the engine stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import HttpLibrary
from dynamo_tito.control import AdminApi, VllmAdmin, make_admin
from support.vllm_live import TOLERANCE, running, until_running
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

PROMPT = np.random.default_rng(6).integers(0, 340, 30).tolist()
#: Some ten seconds of the interpreter.
LONG = {"max_tokens": 400, "ignore_eos": True}


@asynccontextmanager
async def session(server: VllmServer, http: HttpLibrary = "native") -> AsyncIterator[tuple[AsyncTitoClient, AdminApi]]:
    admin = await make_admin(server.url, "vllm", trust_env=False)
    assert isinstance(admin, VllmAdmin)
    try:
        async with AsyncTitoClient(
            server.url, model=MODEL, transport="vllm_generate", http=http, timeout=300.0, trust_env=False
        ) as client:
            yield client, admin
    finally:
        await admin.resume()
        await admin.aclose()


async def begun(server: VllmServer, call: Awaitable[Any]) -> asyncio.Future[Any]:
    """Start the call; return when the engine works on it."""
    task = asyncio.ensure_future(call)
    waiting = asyncio.ensure_future(until_running(server, 1))
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        raise AssertionError(f"the call ended before the engine was seen to work on it: {task.result()!r}")
    await waiting
    return task


def check(truth: Truth, completion: tito.Completion, *, aborted: bool) -> None:
    """Whole, and the model's own, as far as it got."""
    assert (completion.finish_reason == "abort", completion.aborted) == (aborted, aborted)
    ids = [*PROMPT, *completion.token_ids.tolist()]
    if len(ids) == len(PROMPT):
        return
    forward = truth.one("moe_a", ids)
    assert completion.logprobs is not None
    np.testing.assert_allclose(completion.logprobs, forward.sampled(ids, len(PROMPT)), rtol=0, atol=TOLERANCE)
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, forward.experts[: len(ids) - 1])


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("http", ["native", "httpx"])
def test_an_abort_ends_the_answer_early_and_whole(
    moe: VllmServer, truth: Truth, http: HttpLibrary, by_id: bool
) -> None:
    async def main() -> tito.Completion:
        async with session(moe, http) as (client, admin):
            call = client.generate(PROMPT, sampling_params=LONG, request_id="mine")
            task = await begun(moe, call)
            await admin.abort("mine" if by_id else None)
            completion: tito.Completion = await task
            return completion

    completion = asyncio.run(main())
    assert len(completion.token_ids) < LONG["max_tokens"]
    check(truth, completion, aborted=True)


def test_pause_keep_holds_the_request(moe: VllmServer, truth: Truth) -> None:
    async def main() -> tito.Completion:
        async with session(moe) as (client, admin):
            task = await begun(moe, client.generate(PROMPT, sampling_params=LONG | {"max_tokens": 300}))
            await admin.pause("keep")
            assert await admin.is_paused()
            assert not task.done()
            await admin.resume()
            assert not await admin.is_paused()
            completion: tito.Completion = await task
            return completion

    completion = asyncio.run(main())
    assert len(completion.token_ids) == 300
    check(truth, completion, aborted=False)


def test_pause_wait_returns_when_the_request_is_done(moe: VllmServer, truth: Truth) -> None:
    async def main() -> tito.Completion:
        async with session(moe) as (client, admin):
            task = await begun(moe, client.generate(PROMPT, sampling_params=LONG | {"max_tokens": 300}))
            await admin.pause("wait")
            assert await running(moe) == 0
            completion: tito.Completion = await task
            return completion

    completion = asyncio.run(main())
    assert len(completion.token_ids) == 300
    check(truth, completion, aborted=False)


def test_pause_abort_ends_the_request(moe: VllmServer, truth: Truth) -> None:
    async def main() -> tito.Completion:
        async with session(moe) as (client, admin):
            task = await begun(moe, client.generate(PROMPT, sampling_params=LONG))
            await admin.pause("abort")
            completion: tito.Completion = await task
            return completion

    check(truth, asyncio.run(main()), aborted=True)


@pytest.mark.parametrize("http", ["native", "httpx"])
def test_a_cancelled_call_stops_the_engine(moe: VllmServer, http: HttpLibrary) -> None:
    async def main() -> None:
        async with session(moe, http) as (client, _):
            task = await begun(moe, client.generate(PROMPT, sampling_params=LONG))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_running(moe, 0)
            with pytest.raises(tito.TransportError):
                await client.generate(PROMPT, sampling_params=LONG, deadline=1.0)
            await until_running(moe, 0)

    asyncio.run(main())
