"""A turn that was cut and resumed equals one that was not cut: tokens, values, rows, one message."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import RendererTransport
from dynamo_tito._types import SamplingMask
from dynamo_tito.rollout import Rollout, Segment, TrainingSample, WeightSpan
from dynamo_tito.simulator import Engine, Fault
from support.chat import ChatRenderer, ShortRenderer
from support.completions import completion, routed
from support.judge import judge

END = 31_997
TURN = [600, 701, 602, 603, END]
SHAPE: dict[str, Any] = {"num_layers": 3, "top_k": 2}
ROUTES: list[tuple[dict[str, Any], RendererTransport]] = [
    ({"backend": "dynamo", "prompt_start": "trim"}, "dynamo_chat"),
    ({"backend": "dynamo", "prompt_start": "ignore", "num_experts": 512}, "dynamo_completions"),
    ({"backend": "vllm"}, "vllm_generate"),
    ({"backend": "vllm", "vllm_version": "0.31"}, "vllm_generate"),
    ({"backend": "prime"}, "prime_chat_tokens"),
    ({"backend": "sglang"}, "sglang_generate"),
    ({"backend": "vllm", "routed_experts": False}, "vllm_generate"),
]


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def alike(one: TrainingSample, other: TrainingSample) -> bool:
    """Equal except for the request ids of the server."""

    def nameless(sample: TrainingSample) -> TrainingSample:
        sample.turns = tuple(dataclasses.replace(turn, request_id=None) for turn in sample.turns)
        return sample

    return nameless(one).equals(nameless(other))


# --- by hand ---


def mask(ids: list[int], first: int) -> SamplingMask:
    """As many survivors at a token as its place in the turn says, the token among them."""
    kept = [[token, *range(first + place)] for place, token in enumerate(ids)]
    offsets = np.cumsum([0, *map(len, kept)])
    return SamplingMask(np.array([n for each in kept for n in each], np.int32), offsets)


def piece(
    rollout: Rollout, first: int, last: int, *, whole: bool, lost: int, prompt: int | None = None
) -> tito.Completion:
    """Tokens first to last of the turn, answering what the rollout asks for now."""
    start = rollout.routed_experts_prompt_start
    if prompt is None:
        prompt = len(rollout.prompt_ids(say("a")) if rollout.head is None else rollout.token_ids)
    ids = TURN[first:last]
    lost = 0 if whole else lost
    rows = prompt + len(ids) - 1 - start - lost
    experts = routed(rows, start, complete=not lost) if rows > 0 else None
    return completion(
        ids,
        experts,
        logprobs=-np.arange(first + 1.0, last + 1.0),
        sampling_mask=mask(ids, first),
        weight_versions=[{"version": "v1", "start": 0, "end": len(ids)}],
        finish_reason="stop" if whole else "abort",
        aborted=not whole,
    )


def cut_at(*cuts: int, renderer: type[ChatRenderer] = ShortRenderer, lost: int = 0) -> Rollout:
    """A rollout whose turn was cut at these tokens, each time resumed, with ``lost`` rows missing at each cut."""
    rollout = Rollout(renderer())
    rollout.request(say("a"))
    for number, (first, last) in enumerate(zip((0, *cuts), (*cuts, len(TURN)), strict=True)):
        if rollout.head is not None:
            asked = rollout.request(resume=True)
            assert np.array_equal(asked["prompt_ids"], rollout.token_ids)
        rollout.append(piece(rollout, first, last, whole=number == len(cuts), lost=lost))
    return rollout


@pytest.mark.parametrize("renderer", [ShortRenderer, ChatRenderer])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(TURN)), max_size=5).map(sorted), lost=st.integers(0, 9))
def test_a_turn_that_is_cut_anywhere_is_the_uncut_turn(renderer: Any, cuts: list[int], lost: int) -> None:
    cut, whole = cut_at(*cuts, renderer=renderer, lost=lost), cut_at(renderer=renderer)
    assert alike(cut.sample(), whole.sample())
    (turn,), (uncut,) = cut.turns, whole.turns
    assert cut.leaves == [turn]
    assert cut.messages == whole.messages
    assert (turn.number, turn.parent, turn.aborted, turn.finish_reason) == (0, None, False, "stop")
    assert turn.sampling_mask is not None
    assert uncut.sampling_mask is not None
    assert turn.sampling_mask.equals(uncut.sampling_mask)
    assert [(part.start, part.stop) for part in turn.segments] == list(zip((0, *cuts), (*cuts, len(TURN)), strict=True))
    # The conversation goes on alike.
    for rollout in (cut, whole):
        end = len(rollout.prompt_ids(say("b"))) + 2
        assert rollout.routed_experts_prompt_start == turn.end - 1
        rollout.append(completion([604, END], routed(end - turn.end, turn.end - 1)))
    assert alike(cut.sample(), whole.sample())


def test_every_single_cut() -> None:
    whole = cut_at().sample()
    for cut in range(len(TURN) + 1):
        for lost in range(8):
            assert alike(cut_at(cut, lost=lost).sample(), whole)


def test_versions_are_those_of_the_segments() -> None:
    rollout = Rollout(ShortRenderer())
    prompt = len(rollout.prompt_ids(say("a")))
    versions = [{"version": "1", "start": 0, "end": 1}, {"version": "2", "start": 1, "end": 2}]
    rollout.append(completion([600, 701], weight_versions=versions, aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    turn = rollout.append(
        completion([602, END], weight_versions=[{"version": "2", "start": 0, "end": 2}], request_id="s")
    )
    assert turn.segments == (
        Segment(0, 2, "abort", True, (WeightSpan("1", 0, 1), WeightSpan("2", 1, 2)), "r"),
        Segment(2, 4, "stop", False, (WeightSpan("2", 2, 4),), "s"),
    )
    assert turn.weight_versions == (WeightSpan("1", 0, 1), WeightSpan("2", 1, 4))
    sample = rollout.sample()
    assert sample.weight_versions == (WeightSpan("1", prompt, prompt + 1), WeightSpan("2", prompt + 1, prompt + 4))
    assert sample[prompt + 2 :].weight_versions == (WeightSpan("2", 0, 2),)


def test_a_bare_label_is_not_measured(tmp_path: Any) -> None:
    rollout = Rollout(ShortRenderer())
    prompt = len(rollout.prompt_ids(say("a")))
    rollout.append(completion([600, 701], weight_versions=[{"version": "1"}], aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    rollout.append(completion([602, END], weight_versions=[{"version": "2"}]))
    expected = (
        WeightSpan("1", prompt, prompt + 2, measured=False),
        WeightSpan("2", prompt + 2, prompt + 4, measured=False),
    )
    assert rollout.sample().weight_versions == expected
    rollout.sample().save(tmp_path / "s")
    assert TrainingSample.load(tmp_path / "s").weight_versions == expected


def test_a_mask_in_one_segment_only_is_refused() -> None:
    rollout = Rollout(ShortRenderer())
    rollout.prompt_ids(say("a"))
    rollout.append(completion([600], sampling_mask=mask([600], 0), aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    with pytest.raises(tito.AlignmentError, match="1 of 2 answers of this turn hold a sampling mask"):
        rollout.append(completion([602, END]))
    assert rollout.append(completion([])).sampling_mask is not None


def test_a_mask_that_was_cut_off_is_not_known() -> None:
    """It comes with the last event of a stream."""
    rollout = Rollout(ShortRenderer())
    rollout.prompt_ids(say("a"))
    kept = mask([603, 604], 0)
    answers = [([600, 601], None), ([], None), ([602], None), ([603, 604], kept), ([605], None)]
    for ids, found in answers:
        rollout.append(completion(ids, sampling_mask=found, aborted=True, finish_reason="abort"))
        rollout.request(resume=True)
    with pytest.raises(tito.AlignmentError, match="1 of 2 answers"):
        rollout.append(completion([END]))
    turn = rollout.append(completion([END], sampling_mask=mask([END], 2)))
    assert turn.sampling_mask is not None
    expected: list[list[int]] = [[], [], [], *(row.tolist() for row in kept), [], mask([END], 2)[0].tolist()]
    assert [row.tolist() for row in turn.sampling_mask] == expected


def test_logprobs_in_one_segment_only() -> None:
    rollout = Rollout(ShortRenderer())
    rollout.prompt_ids(say("a"))
    rollout.append(completion([600], logprobs=None, aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    turn = rollout.append(completion([END]))
    assert turn.logprobs is not None
    assert np.array_equal(turn.logprobs, [np.nan, -1.0], equal_nan=True)


def test_a_wider_segment_widens_the_turn() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids(say("a"))) + 2
    rollout.append(completion([600, 601], routed(total - 1), aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    turn = rollout.append(completion([END], routed(1, total - 1, dtype="uint16")))
    assert turn.rows is not None
    assert turn.rows.dtype == np.uint16
    assert np.array_equal(turn.rows, routed(total).array)


@pytest.mark.parametrize("aborted", [True, None])
def test_what_the_wire_cannot_tell_may_be_resumed(aborted: bool | None) -> None:
    rollout = Rollout(ShortRenderer())
    rollout.prompt_ids(say("a"))
    first = rollout.append(completion([600], aborted=aborted))
    rollout.request(resume=True)
    rollout.append(completion([END]))
    assert [message["role"] for message in rollout.messages] == ["user", "assistant"]
    with pytest.raises(ValueError, match="was resumed since"):
        rollout.rewind(first)


def test_what_cannot_be_resumed() -> None:
    rollout = Rollout(ShortRenderer())
    with pytest.raises(ValueError, match="no turn that could be resumed"):
        rollout.request(resume=True)
    rollout.request(say("a"), sampling_params={"max_tokens": 2})
    cut = rollout.append(completion([600, 701], aborted=True, finish_reason="abort"))
    with pytest.raises(ValueError, match="has 2 tokens, the limit of the whole turn"):
        rollout.request(resume=True)
    with pytest.raises(TypeError, match="give no messages"):
        rollout.request(say("b"), resume=True)
    rollout.prompt_ids(say("b"))
    rollout.append(completion([END]))
    with pytest.raises(ValueError, match=r"turn 1 is whole \(finish reason 'stop', not aborted\)"):
        rollout.request(resume=True)
    rollout.rewind(cut)
    with pytest.raises(ValueError, match="turn 0 was continued by a later turn"):
        rollout.request(resume=True)


def test_an_answer_that_does_not_fit_leaves_the_turn_open() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids(say("a"))) + 2
    cut = rollout.append(completion([600, 601], routed(total - 1), aborted=True, finish_reason="abort"))
    rollout.request(resume=True)
    wrong: list[tuple[tito.Completion, type[tito.TitoError]]] = [
        (completion([END], routed(2, total - 1)), tito.RoutedExpertsError),
        (completion([END], routed(1, total)), tito.RoutedExpertsError),
        (completion([END], prompt_token_ids=cut.prompt_ids), tito.AlignmentError),
        (completion([END], finish_reason="error"), tito.EngineError),
    ]
    for answer, error in wrong:
        with pytest.raises(error):
            rollout.append(answer)
        assert rollout.head is cut
    rollout.append(completion([END], routed(1, total - 1)))


# --- calls that were cancelled ---


def pending(rollout: Rollout) -> Any:
    return rollout.interrupted


class Cancelled:
    """A client whose calls fail, all but the last: each error carries the tokens up to the next cut."""

    def __init__(
        self, rollout: Rollout, cuts: list[int], lost: int, error: Callable[[], BaseException] = asyncio.CancelledError
    ) -> None:
        self.rollout, self.bounds, self.lost, self.error = rollout, [*cuts, len(TURN)], lost, error
        self.sent: list[dict[str, Any]] = []

    async def generate(self, prompt_ids: Any, **keywords: Any) -> tito.Completion:
        first, last = self.bounds[len(self.sent) - 1] if self.sent else 0, self.bounds[len(self.sent)]
        self.sent.append({"prompt_ids": prompt_ids, **keywords})
        whole = len(self.sent) == len(self.bounds)
        answer = piece(self.rollout, first, last, whole=whole, lost=self.lost, prompt=len(prompt_ids))
        if whole:
            return answer
        error: Any = self.error()
        error.completion = answer
        raise error


FAILURES: list[Any] = [asyncio.CancelledError, lambda: tito.ServerError("engine failed", status=None, body=b"")]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("by_hand", [True, False])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(TURN)), min_size=1, max_size=4).map(sorted), lost=st.integers(0, 9))
def test_a_turn_whose_calls_fail_is_the_uncut_turn(by_hand: bool, failure: Any, cuts: list[int], lost: int) -> None:
    async def roll() -> Rollout:
        rollout = Rollout(ShortRenderer())
        client: Any = Cancelled(rollout, cuts, lost, failure)
        coming = rollout.step(client, say("a"), sampling_params={"max_tokens": 9}, on_interrupt="return")
        for number in range(len(cuts)):
            before = rollout.head
            with pytest.raises((asyncio.CancelledError, tito.ServerError)) as caught:
                await coming
            assert rollout.head is (before if number == 0 or by_hand else rollout.turns[0])
            cut: Any = caught.value
            assert pending(rollout) is cut.completion
            if by_hand:
                assert rollout.append(cut.completion).aborted
                assert pending(rollout) is None
            coming = rollout.resume(client)
        await coming
        assert [each["sampling_params"]["max_tokens"] for each in client.sent] == [9 - cut for cut in (0, *cuts)]
        assert {each["on_interrupt"] for each in client.sent} == {"return"}
        return rollout

    rollout = asyncio.run(roll())
    assert alike(rollout.sample(), cut_at().sample())
    assert rollout.messages == cut_at().messages
    assert len(rollout.leaves) == 1


def test_a_cancelled_call_may_be_asked_again_from_the_start() -> None:
    async def roll() -> None:
        rollout = Rollout(ShortRenderer())
        client: Any = Cancelled(rollout, [2], 0)
        with pytest.raises(asyncio.CancelledError):
            await rollout.step(client, say("a"))
        assert (rollout.turns, len(rollout.token_ids)) == ([], 0)
        assert pending(rollout) is not None
        client = Cancelled(rollout, [], 0)
        turn = await rollout.step(client, say("a"))
        assert pending(rollout) is None
        assert (len(turn.segments), rollout.messages[0]) == (1, say("a")[0])

    asyncio.run(roll())


def test_what_a_cancelled_call_had_is_taken_by_a_request_too() -> None:
    async def roll() -> Rollout:
        rollout = Rollout(ShortRenderer())
        client: Any = Cancelled(rollout, [2], 0)
        with pytest.raises(asyncio.CancelledError):
            await rollout.step(client, say("a"))
        return rollout

    rollout = asyncio.run(roll())
    rollout.request(resume=True)
    rollout.append(piece(rollout, 2, len(TURN), whole=True, lost=0))
    assert alike(rollout.sample(), cut_at().sample())


def test_an_answer_that_came_whole_before_the_call_was_cancelled_is_not_asked_for_again() -> None:
    class Slow(ShortRenderer):
        blocking = True

        def parse_response(self, *arguments: Any, **keywords: Any) -> Any:
            parsing.set()
            released.wait(10)
            return super().parse_response(*arguments, **keywords)

    async def roll() -> None:
        rollout = Rollout(Slow())
        client: Any = Cancelled(rollout, [], 0)
        task = asyncio.create_task(rollout.step(client, say("a")))
        await asyncio.to_thread(parsing.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
        turn = await rollout.resume(client)
        assert (turn.aborted, turn.token_ids.tolist()) == (False, TURN)
        assert len(client.sent) == 1

    parsing, released = threading.Event(), threading.Event()
    asyncio.run(roll())


# --- the embedded engine ---


@pytest.fixture(scope="module", params=ROUTES, ids=lambda route: "-".join([*map(str, route[0].values()), route[1]]))
def route(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, TitoClient]]:
    config, transport = request.param
    with (
        simulator.running(**config, **SHAPE) as engine,
        TitoClient(
            engine.url, model=engine.config.model, transport=transport, experts="native", trust_env=False, **SHAPE
        ) as client,
    ):
        yield engine, client


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=4))
def test_an_engine_that_aborts_anywhere(route: tuple[Engine, TitoClient], cuts: list[int]) -> None:
    engine, client = route

    def ask(rollout: Rollout, **arguments: Any) -> None:
        rollout.append(client.generate(**rollout.request(**arguments)))

    uncut = Rollout(ShortRenderer())
    ask(uncut, next_messages=say("Hi"), sampling_params={"max_tokens": 8})
    engine.forget()
    rollout = Rollout(ShortRenderer(), strict_routing=True)
    engine.faults.script(*(Fault(kind="abort", at=at) for at in cuts))
    ask(rollout, next_messages=say("Hi"), sampling_params={"max_tokens": 8})
    while rollout.head is not None and rollout.head.aborted:
        if len(rollout.head.token_ids) == 8:
            with pytest.raises(ValueError, match="nothing is left"):
                rollout.request(resume=True)
            engine.faults.clear()
            return
        ask(rollout, resume=True)
    engine.faults.clear()
    assert alike(rollout.sample(), uncut.sample())
    # What was asked for in all is what was asked for at first.
    assert sum(len(record.samples[0].token_ids) for record in engine.requests if record.samples) == 8
    truth = [record.samples[0] for record in engine.requests if record.samples]
    wide = client.transport in {"dynamo_chat", "dynamo_completions"}
    judge(rollout.sample(), truth, float32=not wide, routed=engine.config.routed_experts)


def test_the_rest_is_asked_for_as_the_turn_was() -> None:
    async def roll(engine: Engine) -> None:
        async with AsyncTitoClient(engine.url, model=engine.config.model, trust_env=False) as client:
            rollout = Rollout(ShortRenderer())
            engine.faults.script(Fault(kind="abort", at=3), Fault(kind="abort", at=2))
            await rollout.step(
                client,
                say("Hi"),
                sampling_params={"max_tokens": 9, "min_tokens": 4, "temperature": 0.5},
                stop_token_ids=[7],
                cache_salt="salt",
                request_id="first",
            )
            engine.admin.name_version("step_2")
            await rollout.resume(client, request_id="second")
            turn = await rollout.resume(client, sampling_params={"max_tokens": 20})
            assert len(turn.token_ids) == 20
            assert [span.version for span in turn.weight_versions][-1:] == ["step_2"]
            assert [span.start for span in turn.weight_versions] == [0, 3]

    with simulator.running(backend="vllm") as engine:
        asyncio.run(roll(engine))
        asked = [record.json() for record in engine.requests if record.path.endswith("generate")]
        params = [each["sampling_params"] for each in asked]
        assert [each["max_tokens"] for each in params] == [9, 6, 15]
        assert [each.get("min_tokens") for each in params] == [4, 1, None]
        assert [each.get("temperature") for each in params[:2]] == [0.5, 0.5]
        assert [each["stop_token_ids"] for each in params] == [[7, END]] * 3
        assert [each.get("cache_salt") for each in asked] == ["salt"] * 3
        assert len({record.key for record in engine.requests if record.samples}) == 3


def test_limits_in_the_body_count_too() -> None:
    rollout = Rollout(ShortRenderer())
    sent: list[dict[str, Any]] = []

    class Client:
        async def generate(self, prompt_ids: Any, **keywords: Any) -> tito.Completion:
            sent.append(keywords)
            return completion([600], aborted=True, finish_reason="abort")

    async def roll() -> None:
        client: Any = Client()
        body = {"max_tokens": 4, "sampling_params": {"max_new_tokens": 5, "min_tokens": 1}, "top_k": 9}
        await rollout.step(client, say("a"), extra_body=body)
        await rollout.resume(client)
        await rollout.resume(client, deadline=3.0)
        with pytest.raises(TypeError, match="leave out routed_experts_prompt_start"):
            await rollout.resume(client, routed_experts_prompt_start=1)

    asyncio.run(roll())
    assert [each["extra_body"] for each in sent[1:]] == [
        {"max_tokens": 3, "sampling_params": {"max_new_tokens": 4, "min_tokens": 0}, "top_k": 9},
        {"max_tokens": 2, "sampling_params": {"max_new_tokens": 3, "min_tokens": 0}, "top_k": 9},
    ]
    assert [each.get("deadline") for each in sent] == [None, None, 3.0]


def test_the_blocking_client_is_refused_before_anything_is_sent() -> None:
    with simulator.running(backend="vllm") as engine, TitoClient(engine.url, model=None, trust_env=False) as client:
        rollout, wrong = Rollout(ShortRenderer()), cast("AsyncTitoClient", client)
        said = r"take an AsyncTitoClient.*rollout\.append\(client\.generate"
        with pytest.raises(TypeError, match=said):
            asyncio.run(rollout.step(wrong, say("a")))
        with pytest.raises(TypeError, match=said):
            asyncio.run(rollout.resume(wrong))
        assert engine.requests == []
