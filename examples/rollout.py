"""Multi-turn rollouts with tools against the embedded engine, with a renderer of one's own.

python examples/rollout.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamo_tito import AsyncTitoClient, simulator
from dynamo_tito.rollout import Rollout, TrainingSample, Turn
from dynamo_tito.simulator import Engine, Sample
from dynamo_tito.simulator.tokenizer import Tokenizer

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SYSTEM = {"role": "system", "content": "You may look."}


@dataclass(frozen=True)
class Rendered:
    """A prompt."""

    token_ids: list[int]


@dataclass(frozen=True)
class Call:
    """A tool call; a malformed one has another status."""

    name: str
    arguments: dict[str, Any]
    status: str = "ok"


@dataclass(frozen=True)
class Parsed:
    """What a completion says."""

    content: str
    tool_calls: Sequence[Call]
    reasoning_content: str | None = None


class Renderer:
    """Renders as the engine's chat template does."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(vocab_size=32_000)
        self._end = self._tokenizer.special["<|im_end|>"]

    def render(
        self, messages: list[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> Rendered:
        """The first prompt."""
        return Rendered(self._tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt))

    def bridge_to_next_turn(
        self, prompt: list[int], completion: list[int], messages: list[Any], *, tools: list[Any] | None = None
    ) -> Rendered:
        """A later prompt: the tokens so far, verbatim, then the new messages."""
        close = [] if completion[-1:] == [self._end] else [self._end]
        added = [*self._tokenizer.encode("\n"), *self._tokenizer.apply_chat_template(messages)]
        return Rendered([*prompt, *completion, *close, *added])

    def parse_response(
        self, token_ids: list[int], *, tools: list[Any] | None = None, prompt_ids: list[int] | None = None
    ) -> Parsed:
        """The engine samples no words: every third token stands for a tool call."""
        ids = [token for token in token_ids if token != self._end]
        return Parsed(self._tokenizer.decode(ids), [Call("look", {"token": one}) for one in ids[:2] if one % 3 == 1])

    def get_stop_token_ids(self) -> list[int]:
        """What ends a message."""
        return [self._end]


def environment(turn: Turn) -> list[dict[str, Any]]:
    """What the world answers: a result per tool call, else another question."""
    calls = turn.message.get("tool_calls", [])
    results = [{"role": "tool", "content": "A lamp.", "tool_call_id": call["id"]} for call in calls]
    return results or [{"role": "user", "content": "Go on."}]


async def roll(client: AsyncTitoClient, *, turns: int, question: str) -> Rollout:
    """One conversation."""
    rollout = Rollout(Renderer(), tools=TOOLS)
    messages: list[dict[str, Any]] = [SYSTEM, {"role": "user", "content": question}]
    for _ in range(turns):
        turn = await rollout.step(client, messages, sampling_params={"max_tokens": 12})
        messages = environment(turn)
    return rollout


async def roll_all(engine: Engine, *, rollouts: int, turns: int) -> list[Rollout]:
    """Several at once."""
    async with AsyncTitoClient(
        engine.url,
        model=engine.config.model,
        transport="dynamo_chat",
        experts="native",
        strict_routing={"num_experts": engine.config.num_experts},
        trust_env=False,
    ) as client:
        return await asyncio.gather(
            *(roll(client, turns=turns, question=f"What is there, number {number}?") for number in range(rollouts))
        )


def confirmed(engine: Engine, rollout: Rollout) -> TrainingSample:
    """The sample, equal to what the engine recorded for its turns: token by token, row by row."""
    answers: dict[tuple[int, ...], Sample] = {
        tuple(sample.token_ids): sample for record in engine.requests for sample in record.samples
    }
    records = [answers[tuple(turn.token_ids)] for turn in rollout.turns]
    sample, last = rollout.sample(), records[-1]
    assert sample.routed_experts is not None
    assert np.array_equal(sample.token_ids, [*last.prompt_ids, *last.token_ids])
    assert np.array_equal(sample.token_ids[sample.mask], np.concatenate([record.token_ids for record in records]))
    assert np.array_equal(sample.logprobs[sample.mask], np.concatenate([record.logprobs for record in records]))
    assert np.array_equal(sample.routed_experts[:-1], last.routed_experts)
    return sample


def main() -> None:
    with simulator.running(num_layers=48, top_k=8, eos_rate=0.1) as engine:
        for rollout in asyncio.run(roll_all(engine, rollouts=4, turns=6)):
            sample = confirmed(engine, rollout)
            called = sum(turn.finish_reason == "tool_calls" for turn in rollout.turns)
            print(f"{len(rollout.turns)} turns, {called} with tool calls: {sample}")
    print("every sample equal to what the engine recorded")


if __name__ == "__main__":
    main()
