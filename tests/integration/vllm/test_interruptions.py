"""Rollouts that a real vLLM, its pauses or their caller interrupt: resumed, they are what a forward pass says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito.control import AdminApi, PauseMode, WeightUpdate, make_admin
from dynamo_tito.rollout import Rollout, ServerRenderer, TrainingSample, Turn
from support.vllm_live import TOLERANCE, compare, end_token, running
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

RNG = np.random.default_rng(11)
TOKENS = 120
LONG = 450  # of a dense model, which takes a millisecond or two a token
SECONDS = 0.004  # that a token of either takes at least
MESSAGES = [{"role": "user", "content": "the quick fox"}]


@dataclass
class Live:
    """A server, what administers it, a client and a rollout."""

    server: VllmServer
    admin: AdminApi
    client: AsyncTitoClient
    rollout: Rollout
    end: int
    tokens: int

    @property
    def params(self) -> dict[str, Any]:
        """Nothing ends a turn but its length."""
        return {"max_tokens": self.tokens, "ignore_eos": True, "logit_bias": {str(self.end): -100.0}}

    async def begun(self, tokens: int, **arguments: Any) -> asyncio.Task[Turn]:
        """A step that is under way and has about so many tokens."""
        step = self.rollout.step(self.client, MESSAGES, sampling_params=self.params, **arguments)
        task = asyncio.create_task(step)
        while not task.done() and not await running(self.server):
            pass
        await asyncio.sleep(tokens * SECONDS)
        return task

    async def streamed(self, tokens: int, reached: asyncio.Event | None = None, **arguments: Any) -> Turn:
        """A stream that tells when it has so many tokens, or is left then."""
        request: Any = self.rollout.request(MESSAGES, sampling_params=self.params)
        async with self.client.stream(**request, **arguments) as stream:
            async for delta in stream:
                if delta.start + len(delta.token_ids) >= tokens:
                    if reached is None:
                        break
                    reached.set()
        return self.rollout.append(stream.completion)


@contextlib.asynccontextmanager
async def live(server: VllmServer, *, routed: bool = True, tokens: int = TOKENS) -> AsyncIterator[Live]:
    end = end_token(server)
    admin = await make_admin(server.url, "vllm", trust_env=False)
    with TitoClient(server.url, model=MODEL, transport="vllm_generate", timeout=60.0, trust_env=False) as asking:
        async with AsyncTitoClient(
            server.url, model=MODEL, transport="vllm_generate", experts="native", require_routed_experts=routed,
            timeout=300.0, trust_env=False,
        ) as client:  # fmt: skip
            try:
                yield Live(server, admin, client, Rollout(ServerRenderer(asking, stop_token_ids=[end])), end, tokens)
            finally:
                await admin.resume()
                await admin.aclose()


# --- the ways to interrupt a turn ---


async def by_pause(live: Live, mode: PauseMode, tokens: int) -> None:
    """The server ends it: by the pause, or by an abort while the pause holds or awaits it."""
    task = await live.begun(tokens, request_id="mine", stream=True)
    pause = asyncio.create_task(live.admin.pause(mode))
    if mode != "abort":
        await asyncio.sleep(0.02)
        await live.client.abort("mine")
    await pause
    await task


async def by_deadline(live: Live, mode: PauseMode, tokens: int) -> None:
    """The caller's deadline passes while the server is paused."""
    task = await live.begun(tokens, deadline=0.5 + tokens * SECONDS, on_interrupt="return", stream=True)
    pause = asyncio.create_task(live.admin.pause(mode))
    await task
    await pause


async def by_cancelling(live: Live, mode: PauseMode, tokens: int) -> None:
    """The caller leaves; what had been sampled is the rollout's to resume."""
    task = await live.begun(tokens, on_interrupt="return", stream=True)
    pause = asyncio.create_task(live.admin.pause(mode))
    await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await pause


async def by_abort(live: Live, mode: PauseMode, tokens: int) -> None:
    """A stream that the caller has aborted at a token."""
    reached = asyncio.Event()
    task = asyncio.create_task(live.streamed(tokens, reached, request_id="mine"))
    await reached.wait()
    await live.client.abort("mine")
    await task
    await live.admin.pause(mode)


async def by_leaving(live: Live, mode: PauseMode, tokens: int) -> None:
    """A stream that the caller leaves at a token."""
    await live.streamed(tokens, on_interrupt="return")
    await live.admin.pause(mode)


WAYS: dict[str, Callable[[Live, PauseMode, int], Awaitable[None]]] = {
    "pause": by_pause,
    "deadline": by_deadline,
    "cancelling": by_cancelling,
    "abort": by_abort,
    "leaving": by_leaving,
}


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
def test_a_turn_that_is_cut_at_a_random_token_and_resumed(moe: VllmServer, truth: Truth, mode: PauseMode) -> None:
    """Seven cuts for each mode, each in another way; and the conversation goes on from the joined turn."""

    async def one(way: str, tokens: int) -> Rollout:
        async with live(moe) as found:
            await WAYS[way](found, mode, tokens)
            await found.admin.resume()
            while found.rollout.head is None or len(found.rollout.head.token_ids) < TOKENS:
                await found.rollout.resume(found.client)
            await found.rollout.step(
                found.client, [{"role": "user", "content": "and?"}], sampling_params={"max_tokens": 2}
            )
            return found.rollout

    async def main() -> list[Rollout]:
        return [await one(way, int(RNG.integers(1, TOKENS))) for way in [*WAYS, *WAYS][:7]]

    compared, cut = 0, 0
    for rollout in asyncio.run(main()):
        turn = rollout.turns[0]
        assert len(turn.token_ids) == TOKENS
        assert [part.stop for part in turn.segments[:-1]] == [part.start for part in turn.segments[1:]]
        cut += len(turn.segments) > 1
        compared += _is_the_forward_pass(truth, rollout.sample(final_row="drop"), "moe_a")
    assert compared >= 6
    # A turn may have been whole before the cut.
    assert cut >= 5


# --- weights that change under it ---


@pytest.fixture
def dense(dense_pair: list[VllmServer]) -> Iterator[VllmServer]:
    """One server with dense_a as version "a", before and after."""
    server = dense_pair[0]

    def reset() -> None:
        with httpx.Client(base_url=server.url, timeout=120.0, trust_env=False) as client:
            client.post("/pause", params={"mode": "abort", "clear_cache": "true"}).raise_for_status()
            body = {"method": "reload_weights", "kwargs": {"weights_path": server.checkpoint("dense_a")}}
            client.post("/collective_rpc", json=body).raise_for_status()
            client.post("/update_weight_version", json={"new_version": "a"}).raise_for_status()
            client.post("/resume").raise_for_status()

    reset()
    yield server
    reset()


@pytest.mark.parametrize("mode", ["keep", "abort"])
def test_each_token_has_the_version_that_sampled_it(dense: VllmServer, truth: Truth, mode: PauseMode) -> None:
    """The update lies within the turn, once within an answer (keep), once between two (abort)."""

    async def main() -> Rollout:
        async with live(dense, routed=False, tokens=LONG) as found:
            reached = asyncio.Event()
            task = asyncio.create_task(found.streamed(20, reached))
            await reached.wait()
            await found.admin.pause(mode)
            await found.admin.update_weights(WeightUpdate(path=dense.checkpoint("dense_b"), version="b"))
            await found.admin.flush_cache()
            await found.admin.resume()
            turn = await task
            while turn.aborted:
                turn = await found.rollout.resume(found.client)
            return found.rollout

    rollout = asyncio.run(main())
    (turn,) = rollout.turns
    assert (len(turn.token_ids), len(turn.segments)) == (LONG, 1 if mode == "keep" else 2)
    sample = rollout.sample()
    versions, indices = sample.version_indices()
    assert versions == ("a", "b")
    assert (indices[turn.completion_start :] >= 0).all()
    ids = sample.token_ids.tolist()
    for number, model in enumerate(("dense_a", "dense_b")):
        at = np.flatnonzero(indices == number)
        assert len(at) > 10
        expected = truth.one(model, ids).sampled(ids, 1)
        np.testing.assert_allclose(sample.logprobs[at], expected[at - 1], rtol=0, atol=TOLERANCE)
    # The first token of the new weights is none of the old.
    first = int(np.flatnonzero(indices == 1)[0])
    old = truth.one("dense_a", ids).sampled(ids, 1)[first - 1]
    assert abs(sample.logprobs[first] - old) > TOLERANCE
    kept = sample.mask_off_policy(older_than="b", order=["a", "b"])
    np.testing.assert_array_equal(kept.mask, indices == 1)


def test_tokens_of_an_interrupted_stream_have_no_version(dense: VllmServer) -> None:
    async def main() -> TrainingSample:
        for _ in range(5):
            async with live(dense, routed=False, tokens=LONG) as found:
                turn = await found.streamed(20, on_interrupt="return")
                if len(turn.token_ids) < LONG:  # else it had come whole before this busy process looked
                    await found.rollout.resume(found.client)
                    return found.rollout.sample()
        raise AssertionError("no stream was left before its end")

    sample = asyncio.run(main())
    versions, indices = sample.version_indices()
    sampled = indices[sample.mask]
    known = int((sampled < 0).sum())
    assert (versions, sampled.tolist()) == (("a",), [-1] * known + [0] * (LONG - known))
    assert 20 <= known < LONG
    assert sample.mask_off_policy(older_than="a", order=["a"]).mask.sum() == LONG - known


def _is_the_forward_pass(truth: Truth, sample: TrainingSample, model: str) -> bool:
    ids = sample.token_ids.tolist()
    first = int(np.flatnonzero(sample.mask)[0])
    sampled = sample.mask[first:]
    forward = truth.one(model, ids)
    logprobs = np.where(sampled, sample.logprobs[first:], forward.sampled(ids, first))
    return compare(forward, ids, first, logprobs, sample.routed_experts)
