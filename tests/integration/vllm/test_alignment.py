"""Every routed row and every log-probability of a real vLLM against a forward pass over the same tokens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from support.vllm_live import TIE, TOLERANCE
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Forward, Truth

PROMPT_LENGTHS = (1, 2, 5, 15, 16, 17, 31, 33, 64, 127, 128, 129, 300, 480)  # around vLLM's blocks of 16 and 128
COMPLETION_LENGTHS = (1, 2, 12)
TOP = 3


@dataclass(frozen=True)
class Answer:
    """A completion, where its rows begin, and the truth of all its tokens."""

    prompt_len: int
    start: int
    token_ids: list[int]
    completion: tito.Completion
    truth: Forward

    @property
    def decided(self) -> bool:
        """Whether no router was so close to another choice that rounding may have made it."""
        return bool((self.truth.margins[: len(self.token_ids) - 1] >= TIE).all())

    def __str__(self) -> str:
        closest = self.truth.margins[: len(self.token_ids) - 1].min()
        return f"prompt {self.prompt_len}, start {self.start}, {len(self.token_ids)} tokens, routers within {closest}"


@dataclass
class Count:
    """Row-layer pairs: how many were compared, and how many were not equal in order."""

    pairs: int = 0
    wrong: int = 0

    def add(self, found: Any, expected: Any, margins: Any) -> None:
        assert found.shape == expected.shape
        equal = (found == expected).all(axis=-1)
        self.pairs += equal.size
        self.wrong += int((~equal & (margins >= TIE)).sum())


def compare(answers: list[Answer], *, shift: int = 0) -> Count:
    """Hold each answer's rows against the router at the positions `shift` later."""
    count = Count()
    for answer in answers:
        routed = answer.completion.routed_experts
        assert routed is not None
        at = np.arange(answer.start, answer.start + len(routed.array)) + shift
        inside = (at >= 0) & (at < len(answer.token_ids) - 1)
        rows = routed.array[inside]
        count.add(rows, answer.truth.experts[at[inside]], answer.truth.margins[at[inside]])
    return count


@pytest.fixture(scope="module")
def answers(moe: VllmServer, truth: Truth) -> list[Answer]:
    """252 calls: lengths around block boundaries, starts from none to the prompt's end, eight at a time."""
    rng = np.random.default_rng(0)
    cases = [
        (rng.integers(0, 340, prompt).tolist(), completion, start, int(rng.integers(1 << 30)))
        for prompt in PROMPT_LENGTHS
        for completion in COMPLETION_LENGTHS
        for start in (None, 0, 1, prompt // 2, prompt - 1, prompt)
    ]

    async def main() -> list[tito.Completion]:
        async with tito.connect(
            moe.url, backend="vllm", model=MODEL, require_routed_experts=True, timeout=300.0, trust_env=False,
            max_concurrency=8,
        ) as client:  # fmt: skip
            calls = [
                client.generate(
                    prompt,
                    sampling_params={"max_tokens": length, "logprobs": TOP, "ignore_eos": True, "seed": seed},
                    routed_experts_prompt_start=start,
                )
                for prompt, length, start, seed in cases
            ]
            return await asyncio.gather(*calls)

    completions = asyncio.run(main())
    sequences = [case[0] + found.token_ids.tolist() for case, found in zip(cases, completions, strict=True)]
    return [
        Answer(len(case[0]), case[2] or 0, sequence, found, forward)
        for case, sequence, found, forward in zip(cases, sequences, completions, truth("moe_a", sequences), strict=True)
    ]


def test_every_row_is_the_routers_choice_at_its_position(answers: list[Answer], record_testsuite_property: Any) -> None:
    for answer in answers:
        routed = answer.completion.routed_experts
        assert routed is not None
        assert (routed.start, routed.complete) == (answer.start, True)
        assert len(routed.array) == len(answer.token_ids) - 1 - answer.start
    count = compare(answers)
    record_testsuite_property("routed row-layer pairs", count.pairs)
    assert count.pairs >= 50_000
    assert count.wrong == 0


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_comparison_catches_rows_shifted_by_one(answers: list[Answer], shift: int) -> None:
    count = compare(answers, shift=shift)
    assert count.pairs >= 50_000
    # Neighbouring positions agree by chance: two of 16 experts in order are equal in about one pair of 240.
    assert count.wrong > 0.8 * count.pairs


def test_few_answers_are_too_close_to_compare(answers: list[Answer]) -> None:
    assert sum(not answer.decided for answer in answers) <= len(answers) // 20


def test_every_logprob_is_the_models(answers: list[Answer]) -> None:
    compared = 0
    for answer in answers:
        if not answer.decided:
            continue
        expected = answer.truth.sampled(answer.token_ids, answer.prompt_len)
        assert answer.completion.logprobs is not None
        np.testing.assert_allclose(answer.completion.logprobs, expected, rtol=0, atol=TOLERANCE, err_msg=str(answer))
        compared += len(expected)
    assert compared >= 1_000


def test_every_alternative_is_among_the_best(answers: list[Answer]) -> None:
    for answer in answers:
        if not answer.decided:
            continue
        sampled = answer.token_ids[answer.prompt_len :]
        assert answer.completion.top_logprobs is not None
        for at, (ids, logprobs) in enumerate(answer.completion.top_logprobs):
            expected = answer.truth.logprobs[answer.prompt_len - 1 + at]
            np.testing.assert_allclose(logprobs, expected[ids], rtol=0, atol=TOLERANCE, err_msg=str(answer))
            best = np.argsort(-expected)[:TOP].tolist()
            # vLLM 0.32 gives TOP entries in all, the sampled one first.
            wanted = best if sampled[at] in best else best[: TOP - 1]
            assert {*wanted, sampled[at]} <= set(ids.tolist())


def test_logprobs_of_the_neighbouring_position_are_caught(answers: list[Answer]) -> None:
    """Else the tolerance would say little."""
    differences = []
    for answer in answers:
        ids = np.asarray(answer.token_ids[answer.prompt_len :])
        other = answer.truth.logprobs[np.arange(answer.prompt_len, len(answer.token_ids)), ids]
        assert answer.completion.logprobs is not None
        differences.append(np.abs(answer.completion.logprobs - other))
    assert (np.concatenate(differences) > TOLERANCE).mean() > 0.99
