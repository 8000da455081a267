"""A rollout worker: 256 conversations in flight over one client, each with turns, tools and a training sample.

python -m examples.many_conversations [--url URL --model NAME] [--in-flight 256] [--conversations 1024] [--turns 3]

Without --url an embedded engine answers. A conversation whose answer is refused is counted, and the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.rollout import Rollout, TrainingSample
from examples.rollout import SYSTEM, TOOLS, Renderer, environment


async def converse(client: tito.AsyncTitoClient, question: str, turns: int) -> TrainingSample:
    """One conversation to its end."""
    rollout = Rollout(Renderer(), tools=TOOLS)
    messages = [SYSTEM, {"role": "user", "content": question}]
    for _ in range(turns):
        turn = await rollout.step(client, messages, sampling_params={"max_tokens": 16})
        messages = environment(turn)
    return rollout.sample()


async def all_of(
    client: tito.AsyncTitoClient, *, conversations: int, in_flight: int, turns: int
) -> AsyncIterator[TrainingSample | tito.TitoError]:
    """Every conversation, in the order in which they end; a new one begins where one has ended."""
    questions = (f"What is there, number {number}?" for number in range(conversations))
    running = {
        asyncio.create_task(converse(client, question, turns)) for question in itertools.islice(questions, in_flight)
    }
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for question in itertools.islice(questions, len(done)):
                running.add(asyncio.create_task(converse(client, question, turns)))
            for task in done:
                try:
                    yield task.result()
                except tito.TitoError as error:
                    yield error
    finally:
        for task in running:
            task.cancel()


async def work(url: str, model: str, arguments: argparse.Namespace) -> None:
    began, tokens, refused = time.perf_counter(), 0, Counter[str]()
    async with tito.connect(url, backend="dynamo", model=model, experts="native") as client:
        outcomes = all_of(
            client, conversations=arguments.conversations, in_flight=arguments.in_flight, turns=arguments.turns
        )
        async for outcome in outcomes:
            if isinstance(outcome, tito.TitoError):
                refused[type(outcome).__name__] += 1
            else:
                tokens += int(outcome.mask.sum())  # here the sample goes to the trainer
    seconds = time.perf_counter() - began
    good = arguments.conversations - refused.total()
    print(f"{good} conversations, {tokens} tokens sampled, {tokens / seconds:,.0f} a second, refused: {dict(refused)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="Dynamo's frontend")
    parser.add_argument("--model", default="tito-model")
    parser.add_argument("--conversations", type=int, default=1024)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(simulator.running(eos_rate=0.05, latency=0.05)).url
        asyncio.run(work(url, arguments.model, arguments))


if __name__ == "__main__":
    main()
