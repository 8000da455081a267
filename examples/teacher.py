"""Teacher scoring: the log-probabilities that a teacher gives to sequences that a student sampled.

python examples/teacher.py [--url URL --model NAME --transport NAME] [--sequences 256] [--concurrency 32]

Without --url an embedded engine answers, as student and as teacher with other weights.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack

import numpy as np

import dynamo_tito as tito
from dynamo_tito import simulator


async def sampled(student: tito.AsyncTitoClient, count: int) -> list[tuple[list[int], tito.Completion]]:
    """Prompts, and what the student says to them."""
    prompts = [[1_000 + number, *range(1, 2 + number % 7)] for number in range(count)]
    params = {"max_tokens": 32}
    completions = await asyncio.gather(*(student.generate(prompt, sampling_params=params) for prompt in prompts))
    return list(zip(prompts, completions, strict=True))


async def work(student_url: str, arguments: argparse.Namespace, teacher_url: str) -> None:
    async with (
        tito.connect(student_url, backend="vllm", model="tito-model") as student,
        tito.AsyncTitoClient(teacher_url, model=arguments.model, transport=arguments.transport) as teacher,
    ):
        samples = await sampled(student, arguments.sequences)
        scored = await teacher.score_many(
            [[*prompt, *completion.token_ids.tolist()] for prompt, completion in samples],
            start=[len(prompt) for prompt, _ in samples],
            concurrency=arguments.concurrency,
        )
    failed = [each for each in scored if isinstance(each, tito.TitoError)]
    pairs = [
        (completion.logprobs, scores.logprobs[len(prompt) :])
        for (prompt, completion), scores in zip(samples, scored, strict=True)
        if not isinstance(scores, tito.TitoError) and completion.logprobs is not None
    ]
    own, other = (np.concatenate(column) for column in zip(*pairs, strict=True))
    apart = tito.divergence(own, other, np.ones(len(own), np.bool_))
    print(f"{len(pairs)} sequences scored, {len(failed)} failed, {apart.count} tokens, k3 {apart.k3:.3f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the teacher")
    parser.add_argument("--model", default="tito-model")
    parser.add_argument("--transport", default="vllm_generate")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=32)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        student = stack.enter_context(simulator.running(backend="vllm")).url
        teacher = arguments.url or stack.enter_context(simulator.running(backend="vllm", seed=1)).url
        asyncio.run(work(student, arguments, teacher))


if __name__ == "__main__":
    main()
