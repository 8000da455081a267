"""Multi-turn rollouts with tools against the embedded engine, each sample held against what the engine recorded.

python examples/rollout.py
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from dynamo_tito import AsyncTitoClient, simulator
from dynamo_tito.rollout import Rollout, TrainingSample, Turn
from dynamo_tito.simulator import Engine, Sample
from support.chat import ChatRenderer
from support.judge import judge

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SYSTEM = {"role": "system", "content": "You may look."}


def environment(turn: Turn) -> list[dict[str, Any]]:
    """What the world answers: a result per tool call, else another question."""
    calls = turn.message.get("tool_calls", [])
    results = [{"role": "tool", "content": "A lamp.", "tool_call_id": call["id"]} for call in calls]
    return results or [{"role": "user", "content": "Go on."}]


async def roll(client: AsyncTitoClient, *, turns: int, question: str) -> Rollout:
    """One conversation."""
    rollout = Rollout(ChatRenderer(), tools=TOOLS)
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
    sample = rollout.sample()
    judge(sample, [answers[tuple(turn.token_ids)] for turn in rollout.turns])
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
