"""Streams that break off anywhere: the resumed turn is the turn that was not cut, and nothing is sampled twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import HttpLibrary, RendererTransport
from dynamo_tito.rollout import Rollout, TrainingSample
from dynamo_tito.simulator import Engine, Fault
from support.chat import ShortRenderer

pytestmark = pytest.mark.long

SHAPE: dict[str, Any] = {"num_layers": 3, "top_k": 2}
TOKENS = 8
SAY = [{"role": "user", "content": "Hi"}]
ROUTES: list[tuple[dict[str, Any], RendererTransport]] = [
    ({"backend": "dynamo"}, "dynamo_chat"),
    ({"backend": "dynamo", "num_experts": 512}, "dynamo_completions"),
    ({"backend": "vllm"}, "vllm_generate"),
    ({"backend": "sglang"}, "sglang_generate"),
    ({"backend": "sglang", "incremental_streaming_output": True}, "sglang_generate"),
]
#: How a call ends early, and where: a share of the body, or an event.
CUT = st.one_of(
    st.builds(lambda at: Fault(kind="reset", at=at), st.floats(0, 1)),
    st.builds(lambda at: Fault(kind="truncate", at=at), st.floats(0, 1)),
    st.builds(lambda at: Fault(kind="stall", at=at, unit="events"), st.integers(0, TOKENS - 1)),
    st.builds(lambda at: Fault(kind="error_event", at=at), st.integers(0, TOKENS - 1)),
    st.builds(lambda at: Fault(kind="abort", at=at), st.integers(0, TOKENS - 1)),
)


@pytest.fixture(scope="module", params=ROUTES, ids=lambda route: "-".join([*map(str, route[0].values()), route[1]]))
def route(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, RendererTransport]]:
    config, transport = request.param
    with simulator.running(**config, **SHAPE) as engine:
        yield engine, transport


def values(sample: TrainingSample) -> TrainingSample:
    """Without what the last event alone says, in the precision of those before it."""
    sample.turns = tuple(dataclasses.replace(turn, request_id=None, weight_versions=()) for turn in sample.turns)
    sample.logprobs = sample.logprobs.astype(np.float32).astype(np.float64)
    return sample


async def roll(client: AsyncTitoClient, cuts: list[Fault]) -> tuple[Rollout, int]:
    """A turn that is asked for until it is whole; and how often that was."""
    rollout, calls = Rollout(ShortRenderer(), strict_logprobs=True), 0
    asked: dict[str, Any] = {"sampling_params": {"max_tokens": TOKENS}, "stream": True, "on_interrupt": "return"}
    limit: dict[str, Any] = {"deadline": 1.0} if any(cut.kind == "stall" for cut in cuts) else {}
    while calls < 20:
        if rollout.interrupted is not None:
            rollout.append(rollout.interrupted)
        turn = rollout.head
        if turn is not None and (not turn.aborted or len(turn.token_ids) == TOKENS):
            break
        calls += 1
        with contextlib.suppress(tito.ServerError):
            await (rollout.step(client, SAY, **asked, **limit) if turn is None else rollout.resume(client, **limit))
    return rollout, calls


@pytest.mark.parametrize("http", ["native", "httpx"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cuts=st.lists(CUT, min_size=1, max_size=4))
def test_streams_that_break_anywhere(
    route: tuple[Engine, RendererTransport], http: HttpLibrary, cuts: list[Fault]
) -> None:
    engine, transport = route

    async def main() -> tuple[Rollout, Rollout, int]:
        async with AsyncTitoClient(
            engine.url, model=engine.config.model, transport=transport, http=http, experts="native", retries=None,
            preflight=False, trust_env=False, timeout=20.0, **SHAPE,
        ) as client:  # fmt: skip
            uncut, _ = await roll(client, [])
            engine.forget()
            engine.faults.script(*cuts)
            rollout, calls = await roll(client, cuts)
            engine.faults.clear()
            return uncut, rollout, calls

    uncut, rollout, calls = asyncio.run(main())
    # A call may fail before it is sampled, but none is sampled twice.
    assert len([record for record in engine.requests if record.samples]) <= calls
    assert rollout.messages == uncut.messages
    (turn,) = rollout.turns
    assert len(turn.token_ids) == TOKENS
    if turn.aborted:
        # The last tokens came, and the event behind them, which has the rows, did not.
        np.testing.assert_array_equal(rollout.token_ids, uncut.token_ids)
    else:
        assert values(rollout.sample(final_row="drop")).equals(values(uncut.sample(final_row="drop")))
