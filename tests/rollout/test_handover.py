"""The arguments of a renderer. It may change or keep them without any effect."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from dynamo_tito import simulator
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito.rollout import Rollout
from support.chat import ChatRenderer, Tokens
from support.completions import completion
from support.judge import judge
from support.qwen import VOCAB_SIZE, QwenTokenizer

pytest.importorskip("renderers")

from renderers import Qwen3Renderer, Qwen3RendererConfig

END = 31_997
LONG = 1_500


class Spy(ChatRenderer):
    """Records how many tokens of prompt it gets, and empties the lists."""

    def __init__(self) -> None:
        super().__init__()
        self.bridged: list[list[int]] = []
        self.parsed: list[list[int]] = []
        #: What it adds depends on what is more than this many tokens back.
        self.sees = 1 << 30

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Any],
        *,
        tools: list[Any] | None = None,
    ) -> Tokens | None:
        self.bridged.append(previous_prompt_ids.copy())
        added = self.added(previous_completion_ids, new_messages) or []
        if len(previous_prompt_ids) > self.sees:
            added[0:0] = [77]
        previous_prompt_ids += previous_completion_ids
        previous_completion_ids.clear()
        previous_prompt_ids += added
        return Tokens(previous_prompt_ids)

    def parse_response(
        self, token_ids: list[int], *, tools: list[Any] | None = None, prompt_ids: list[int] | None = None
    ) -> Any:
        assert prompt_ids is not None
        self.parsed.append(prompt_ids.copy())
        said = super().parse_response(token_ids, tools=tools, prompt_ids=prompt_ids)
        prompt_ids.clear()
        token_ids.clear()
        return said


class Package(Spy):
    """As one of the `renderers` package."""


Package.__module__ = "renderers.spy"


def turn(rollout: Rollout, content: Any = "more", **options: Any) -> list[int]:
    """One turn; its prompt."""
    prompt = rollout.prompt_ids([{"role": "user", "content": content}], **options)
    rollout.append(completion([*range(600, 600 + LONG), END]))
    ids: list[int] = prompt.tolist()
    return ids


def test_a_renderer_of_the_user_gets_every_turn() -> None:
    renderer = Spy()
    rollout = Rollout(renderer, on_drift="branch")
    prompts = [turn(rollout) for _ in range(8)]
    assert renderer.bridged == prompts[:-1]
    assert renderer.parsed == prompts
    # Also where the sequence is another one than before.
    first, second = rollout.turns[0], rollout.turns[1]
    prompt: list[int] = []
    for back in (first, second, first, rollout.leaves[0]):
        rollout.rewind(back)
        before = rollout.token_ids.tolist()
        prompt = turn(rollout, "elsewhere")
        assert prompt[: len(before)] == before
        assert renderer.bridged[-1] == before[: back.completion_start]
        assert renderer.parsed[-1] == prompt
    sample = rollout.sample()
    assert sample.token_ids.tolist() == [*prompt, *range(600, 600 + LONG), END]


def test_a_renderer_of_the_package_is_handed_its_last_turn_once_that_is_proven() -> None:
    renderer = Package()
    rollout = Rollout(renderer)
    prompts = [turn(rollout) for _ in range(10)]
    lasts = [part.prompt_ids.tolist() for part in rollout.turns]
    handed = iter(renderer.bridged)
    whole = []
    for prompt, last, part in zip(prompts[:-1], lasts, rollout.turns, strict=False):
        given = next(handed)
        if len(given) == len(prompt):
            whole.append(part.number)
            assert given == prompt
            given = next(handed) if part.number else last
        assert given == last
    assert list(handed) == []
    # The sixth turn is the first to end beyond 8,192 tokens.
    assert whole == [0, 1, 2, 3, 4]
    assert renderer.parsed == [*prompts[:6], *lasts[6:]]


@pytest.mark.parametrize("sees", [2_000, 5_000])
def test_a_renderer_that_reads_earlier_turns_gets_all_of_them(sees: int) -> None:
    renderer = Package()
    renderer.sees = sees
    rollout = Rollout(renderer)
    prompts = [turn(rollout) for _ in range(9)]
    own = [len(part.prompt_ids) for part in rollout.turns]
    assert [prompt for prompt in renderer.bridged if len(prompt) not in own[1:]] == prompts[:-1]
    # What it says when it sees everything is what counts.
    assert [part.prompt_ids[0] == 77 for part in rollout.turns[1:]] == [len(prompt) > sees for prompt in prompts[:-1]]
    assert len(renderer.bridged[-1]) == len(prompts[-2])
    assert renderer.parsed[-1] == prompts[-1]


def test_messages_of_more_than_text_may_count_what_was_shown_before() -> None:
    renderer = Package()
    rollout = Rollout(renderer)
    prompts = [turn(rollout) for _ in range(7)]
    assert len(renderer.bridged[-1]) < len(prompts[-2])
    picture = [{"type": "text", "text": "look"}]
    renderer.added = lambda completion, _: [5, 6, 7]  # type: ignore[method-assign, assignment]
    for content in (picture, "text again"):
        prompts.append(turn(rollout, content))
        assert renderer.bridged[-1] == prompts[-2]
        assert renderer.parsed[-1] == prompts[-1]


def test_what_does_not_keep_the_sequence_is_a_drift() -> None:
    class Forgets(Spy):
        def bridge_to_next_turn(self, *args: Any, **options: Any) -> Tokens | None:
            tokens = super().bridge_to_next_turn(*args, **options)
            assert tokens is not None
            tokens.token_ids[3] += 1
            return tokens

    rollout = Rollout(Forgets(), on_drift="branch")
    for _ in range(3):
        turn(rollout)
    assert [drift.kind for drift in rollout.drifts] == ["prefix", "prefix"]


async def roll(url: str, rollout: Rollout, turns: int) -> None:
    async with AsyncTitoClient(
        url, model="tito-model", transport="dynamo_chat", experts="native", trust_env=False
    ) as client:
        for number in range(turns):
            role = "tool" if number % 3 == 1 else "user"
            await rollout.step(
                client, [{"role": role, "content": f"number {number}"}], sampling_params={"max_tokens": 900}
            )


@pytest.mark.parametrize("thinking", [True, False])
def test_the_last_turn_of_qwen_renders_as_the_whole_conversation(thinking: bool) -> None:
    renderer = Qwen3Renderer(QwenTokenizer(), Qwen3RendererConfig(enable_thinking=thinking, thinking_retention="all"))
    rollout = Rollout(renderer)
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.0005, seed=7, prompt_start="trim") as engine:
        asyncio.run(roll(engine.url, rollout, 18))
        truth = [record.samples[0] for record in engine.requests]
    judge(rollout.sample(), truth)
    assert len(rollout.token_ids) > 10_000
    for before, part in zip(truth, rollout.turns[1:], strict=False):
        held = before.prompt_ids.tolist(), before.token_ids.tolist()
        rendered = renderer.bridge_to_next_turn(*held, list(part.said))
        assert rendered is not None
        assert np.array_equal(rendered.token_ids[sum(map(len, held)) :], part.prompt_ids)
