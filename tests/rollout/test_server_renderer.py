"""Bridging by a server's `/tokenize`: two tokenisations and their difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito.rollout import Renderer, Rollout, ServerRenderer
from dynamo_tito.simulator import Engine
from support.judge import judge

END = 31_997


@pytest.fixture
def engine() -> Iterator[Engine]:
    with simulator.running(backend="vllm", eos_rate=0.2, seed=1) as engine:
        yield engine


@pytest.fixture
def client(engine: Engine) -> Iterator[TitoClient]:
    with TitoClient(engine.url, model=engine.config.model, experts="native", trust_env=False) as client:
        yield client


def test_it_is_a_renderer(client: TitoClient) -> None:
    assert isinstance(ServerRenderer(client, stop_token_ids=[END]), Renderer)
    with pytest.raises(ValueError, match="stop_token_ids"):
        ServerRenderer(client, stop_token_ids=[])


@pytest.mark.parametrize("tools", [False, True])
def test_twelve_turns_are_what_the_engine_recorded(engine: Engine, client: TitoClient, tools: bool) -> None:
    rollout = Rollout(ServerRenderer(client, stop_token_ids=[END]))

    async def roll() -> None:
        async with AsyncTitoClient(engine.url, model=engine.config.model, experts="native", trust_env=False) as server:
            messages: list[dict[str, Any]] = [{"role": "system", "content": "be"}, {"role": "user", "content": "Hi"}]
            for number in range(12):
                await rollout.step(server, messages, sampling_params={"max_tokens": 4})
                messages = [{"role": "user", "content": f"question {number}"}]
                if tools:
                    messages = [{"role": "tool", "content": "42", "tool_call_id": f"{number}{n}"} for n in "ab"]

    asyncio.run(roll())
    truth = [record.samples[0] for record in engine.requests]
    assert {sample.finish_reason for sample in truth} == {"eos", "length"}
    judge(rollout.sample(), truth, float32=True)
    assert rollout.drifts == []
    # A whole render would have closed and opened every turn at the same tokens.
    template = engine.tokenizer
    marks = template.apply_chat_template(rollout.messages, add_generation_prompt=False)
    special = [token for token in marks if token >= 31_996]
    assert [int(token) for token in rollout.token_ids if token >= 31_996] == special[
        : len(special) - (truth[-1].finish_reason == "length")
    ]
    assert rollout.messages[2]["content"] == template.decode(truth[0].token_ids, skip_special=True)
    # The questions do not grow with the conversation.
    asked = [record for record in engine.calls if record.path == "/tokenize"]
    assert len(asked) == 1 + 2 * 11
    assert max(len(record.body) for record in asked[1:]) < 600
    if tools:
        (stand_in, *_) = json.loads(asked[1].body)["messages"]
        assert [call["id"] for call in stand_in["tool_calls"]] == ["0a", "0b"]


class Answers:
    """A server of chat templates that were made up for these tests."""

    def __init__(self, alone: list[int], both: list[int]) -> None:
        self.answers = {1: alone, 2: both}
        self.asked: list[tuple[Any, ...]] = []

    def tokenize(self, messages: Any, **options: Any) -> list[int]:
        self.asked.append((messages, options))
        return self.answers[len(messages)]


NEW = [{"role": "user", "content": "b"}]


@pytest.mark.parametrize(
    ("alone", "both", "completion", "expected"),
    [
        # <|end|> closes, a line break follows: 9 closes, 10 is the line break.
        ([1, 2, 9, 10], [1, 2, 9, 10, 5, 6], [7, 9], [10, 5, 6]),
        # Cut by length: the turn is closed as the template does.
        ([1, 2, 9, 10], [1, 2, 9, 10, 5, 6], [7], [9, 10, 5, 6]),
        ([1, 2, 9, 10], [1, 2, 9, 10, 5, 6], [], [9, 10, 5, 6]),
        # Two stop tokens: it ended with the other one.
        ([1, 2, 9, 10], [1, 2, 9, 10, 5, 6], [7, 8], [10, 5, 6]),
        # A system message of the template's own holds the closing token, too.
        ([4, 9, 1, 2, 9, 10], [4, 9, 1, 2, 9, 10, 5], [7, 9], [10, 5]),
        # The next role's marker ends the turn: sampled as the stop token, it is not repeated.
        ([1, 2], [1, 2, 8, 5, 6], [7, 8], [5, 6]),
        ([1, 2], [1, 2, 8, 5, 6], [7], [8, 5, 6]),
        # The model announced another role than the one that answers.
        ([1, 2], [1, 2, 8, 5, 6], [7, 9], None),
        # The template shows the stand-in differently once it is history.
        ([1, 2, 9, 10], [1, 3, 9, 10, 5], [7, 9], None),
    ],
)
def test_what_is_between_the_two(alone: list[int], both: list[int], completion: list[int], expected: Any) -> None:
    server: Any = Answers(alone, both)
    renderer = ServerRenderer(server, stop_token_ids=[8, 9], chat_template_kwargs={"enable_thinking": False})
    assert renderer.extension(completion, NEW, tools=[{"name": "t"}]) == expected
    for messages, options in server.asked:
        assert messages[0] == {"role": "assistant", "content": "."}
        assert options["tools"] == [{"name": "t"}]
        assert options["chat_template_kwargs"] == {"enable_thinking": False}
        assert options["add_generation_prompt"] is (len(messages) == 2)
    whole = renderer.bridge_to_next_turn([3, 3], completion, NEW)
    assert (None if whole is None else list(whole.token_ids)) == (
        None if expected is None else [3, 3, *completion, *expected]
    )


def test_an_assistant_among_the_new_messages_is_not_tokenised() -> None:
    server: Any = Answers([], [])
    renderer = ServerRenderer(server, stop_token_ids=[9])
    assert renderer.extension([7, 9], [{"role": "assistant", "content": "x"}]) is None
    assert server.asked == []


def test_the_client_tokenises_and_detokenises(engine: Engine, client: TitoClient) -> None:
    messages = [{"role": "user", "content": "Hé"}]
    ids = client.tokenize(messages, chat_template_kwargs={"a": 1}, tools=[{"name": "t"}])
    assert ids == engine.tokenizer.apply_chat_template(messages)
    sent = engine.calls[-1].json()
    assert (sent["chat_template_kwargs"], sent["tools"]) == ({"a": 1}, [{"name": "t"}])
    assert client.detokenize(ids) == engine.tokenizer.decode(ids)
    with (
        simulator.running(backend="dynamo") as other,
        TitoClient(other.url, model=None, trust_env=False) as stranger,
        pytest.raises(tito.NotFoundError),
    ):
        stranger.tokenize(messages)
