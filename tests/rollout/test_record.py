"""Rollouts of every shape against the embedded engine: each sample equals its record, token by token, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamo_tito import simulator
from dynamo_tito._client import TitoClient
from dynamo_tito._config import RendererTransport
from dynamo_tito.rollout import Rollout, TrainingSample, Turn
from dynamo_tito.simulator import Engine, Sample
from support.chat import ChatRenderer, ShortRenderer
from support.judge import judge

SHAPE = {"num_layers": 3, "top_k": 2}


class Route(NamedTuple):
    engine: Engine
    client: TitoClient
    float32: bool


DYNAMO_CHAT: RendererTransport = "dynamo_chat"
DYNAMO_COMPLETIONS: RendererTransport = "dynamo_completions"
#: Backend, its settings, and the transport.
STARTS: list[tuple[dict[str, Any], RendererTransport]] = [
    ({"backend": "dynamo", "prompt_start": start, "num_experts": experts}, transport)
    for start in ("refuse", "ignore", "trim")
    for experts, transport in ((128, DYNAMO_CHAT), (512, DYNAMO_COMPLETIONS))
]
ROUTES: list[tuple[dict[str, Any], RendererTransport]] = [
    *STARTS,
    ({"backend": "dynamo", "num_experts": 300}, "vllm_generate"),
    ({"backend": "vllm"}, "vllm_generate"),
    ({"backend": "vllm", "vllm_version": "0.31", "num_experts": 512}, "vllm_generate"),
    ({"backend": "prime"}, "prime_chat_tokens"),
    ({"backend": "sglang"}, "sglang_generate"),
    ({"backend": "dynamo", "routed_experts_container": "bare"}, DYNAMO_CHAT),
    ({"backend": "vllm", "routed_experts": False}, "vllm_generate"),
]


def name(route: object) -> str:
    if isinstance(route, dict):
        return "-".join(str(value) for value in route.values())
    return str(route)


@pytest.fixture(scope="module", params=ROUTES, ids=lambda route: f"{name(route[0])}-{route[1]}")
def route(request: pytest.FixtureRequest) -> Iterator[Route]:
    config, transport = request.param
    with (
        simulator.running(**config, **SHAPE, eos_rate=0.2, vocab_size=2_000) as engine,
        TitoClient(
            engine.url,
            model=engine.config.model,
            transport=transport,
            experts="native",
            preflight=False,
            trust_env=False,
            strict_routing={"num_experts": engine.config.num_experts},
            **SHAPE,  # type: ignore[arg-type]
        ) as client,
    ):
        yield Route(engine, client, transport not in ("dynamo_chat", "dynamo_completions"))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
USER = st.builds(lambda text: [{"role": "user", "content": text}], TEXT)
TOOLS = st.lists(
    st.builds(lambda text, n: {"role": "tool", "content": text, "tool_call_id": f"c{n}"}, TEXT, st.integers(0, 3)),
    min_size=1,
    max_size=2,
)
SAY = st.tuples(st.just("say"), st.one_of(USER, TOOLS), st.integers(1, 7))
WHOLE = st.tuples(st.just("whole"), USER, st.integers(1, 7))
BACK = st.tuples(st.just("back"), st.integers(0, 9), st.none())
FORGET = st.tuples(st.just("edit"), st.integers(0, 9), st.integers(1, 5))
ACTIONS = st.lists(st.one_of(SAY, SAY, SAY, WHOLE, BACK, FORGET), min_size=1, max_size=7)
RENDERERS = st.one_of(
    st.builds(ChatRenderer, st.just(2_000), closes=st.booleans()),
    st.builds(ShortRenderer, st.just(2_000), closes=st.booleans()),
)


def play(route: Route, rollout: Rollout, actions: list[tuple[Any, ...]]) -> dict[Turn, Sample]:
    """Carry out the actions, first of all a first turn; the turns, and what the engine sampled for each."""
    truth: dict[Turn, Sample] = {}

    def ask(limit: int, **messages: Any) -> None:
        held = rollout.token_ids.copy()
        request = rollout.request(**messages)
        completion = route.client.generate(**request, sampling_params={"max_tokens": limit})
        (truth[rollout.append(completion)],) = route.engine.last.samples
        if not rollout.drifts:
            assert np.array_equal(rollout.token_ids[: len(held)], held)

    ask(3, next_messages=[{"role": "system", "content": "be"}, {"role": "user", "content": "Hi"}])
    for kind, what, limit in actions:
        if kind == "say":
            ask(limit, next_messages=what)
        elif kind == "whole":
            ask(limit, conversation=[*rollout.messages, *what])
        elif kind == "back":
            rollout.rewind([*truth][what % len(truth)])
        else:  # the caller leaves out or changes what was said before
            messages = rollout.messages
            kept = messages[: 1 + what % len(messages)]
            ask(limit, conversation=[*kept, {"role": "user", "content": f"edited {what}"}])
    return truth


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    actions=ACTIONS,
    renderer=RENDERERS,
    on_drift=st.sampled_from(["branch", "rerender"]),
    tools=st.booleans(),
    span=st.tuples(st.integers(0, 60), st.integers(0, 90)),
)
def test_samples_are_what_the_engine_recorded(
    route: Route, actions: Any, renderer: ChatRenderer, on_drift: Any, tools: bool, span: tuple[int, int]
) -> None:
    route.engine.forget()
    routed = route.engine.config.routed_experts
    rollout = Rollout(renderer, tools=[{"name": "look"}] if tools else None, on_drift=on_drift, strict_routing=True)
    truth = play(route, rollout, actions)
    assert all(drift.action == on_drift for drift in rollout.drifts)
    samples = rollout.samples()
    assert len(samples) == len(rollout.leaves)
    if on_drift == "branch":
        # Nothing that was sampled is lost.
        assert {id(part) for leaf in rollout.leaves for part in ancestors(leaf)} == {id(turn) for turn in truth}
    for leaf, sample in zip(rollout.leaves, samples, strict=True):
        judge(sample, lineage(leaf, truth), float32=route.float32, routed=routed)
        aligned(sample, *span)
    for number, sample in enumerate(samples):
        others = [same(sample, other) for other in samples[:number]]
        assert sample.shared <= max(others, default=0)
    if rollout.head is not None:
        judge(rollout.sample(), lineage(rollout.head, truth), float32=route.float32, routed=routed)
    if routed:
        for request in route.engine.requests:
            assert len(request.samples) == (0 if request.status == 400 else 1)


def ancestors(turn: Turn | None) -> Iterator[Turn]:
    while turn is not None:
        yield turn
        turn = turn.parent


def lineage(turn: Turn, truth: dict[Turn, Sample]) -> list[Sample]:
    return [truth[ancestor] for ancestor in ancestors(turn)][::-1]


def same(one: TrainingSample, other: TrainingSample) -> int:
    length = min(len(one), len(other))
    differing = np.flatnonzero(one.token_ids[:length] != other.token_ids[:length])
    return int(differing[0]) if len(differing) else length


def aligned(sample: TrainingSample, first: int, last: int) -> None:
    """A slice holds the same of everything."""
    part = sample[first:last]
    whole = sample.routed_experts
    assert np.array_equal(part.token_ids, sample.token_ids[first:last])
    assert np.array_equal(part.mask, sample.mask[first:last])
    assert np.array_equal(part.logprobs, sample.logprobs[first:last], equal_nan=True)
    assert (part.routed_experts is None) is (whole is None)
    if whole is not None:
        assert part.routed_experts is not None
        assert np.array_equal(part.routed_experts, whole[first:last])
    for span in part.turns:
        assert 0 <= span.start <= span.completion_start <= span.end <= len(part)
        assert part.mask[span.completion_start : span.end].all()
        assert not part.mask[span.start : span.completion_start].any()
    assert sum(span.end - span.start for span in part.turns) == len(part)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(actions=st.lists(SAY, min_size=1, max_size=4), policy=st.sampled_from(["repeat", "zeros", "spread", "drop"]))
def test_the_final_row(route: Route, actions: Any, policy: Any) -> None:
    rollout = Rollout(ShortRenderer(2_000), on_drift="raise")
    truths = [*play(route, rollout, actions).values()]
    sample = rollout.sample(final_row=policy)
    total = len(rollout.token_ids)
    if not route.engine.config.routed_experts:
        assert (len(sample), sample.routed_experts) == (total, None)
        return
    truth = np.asarray(truths[-1].routed_experts)
    rows = sample.routed_experts
    assert rows is not None
    assert np.array_equal(rows[: total - 1], truth)
    assert len(sample) == len(rows) == (total - 1 if policy == "drop" else total)
    if policy != "drop":
        final = {"repeat": truth[-1], "zeros": np.zeros((3, 2)), "spread": np.tile(np.arange(2), (3, 1))}[policy]
        assert np.array_equal(rows[-1], final)
    assert sample.turns[-1].end == len(sample)
