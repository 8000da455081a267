"""A sample that reads like text: the pages of this project, cut into tokens, with values from a seeded generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dynamo_tito import Completion, RoutedExperts, TopLogprobs
from dynamo_tito.rollout import TrainingSample, TurnSpan, WeightSpan
from dynamo_tito.rollout.routing import Rows

ROOT = Path(__file__).parents[2]

EXPERTS = 64


@cache
def tokenizer() -> Tokenizer:
    """A byte-level vocabulary of 3,000 tokens, learnt from the README."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([(ROOT / name).read_text() for name in ("README.md", "docs/rollouts.md")], trainer)
    return made


@dataclass(frozen=True, slots=True)
class Made:
    """A sample of three turns, and another scoring of it.

    Layer 0 is zero, rows 400 to 449 are equal, and the last token has the row before.
    """

    sample: TrainingSample
    other: TrainingSample
    scored: NDArray[np.float64]


def routes(rng: np.random.Generator, rows: int, layers: int, slots: int, experts: int) -> NDArray[np.uint8]:
    """Distinct experts of uneven popularity, another one in each layer."""
    found = np.empty((rows, layers, slots), np.uint8)
    for layer in range(layers):
        pull = rng.gumbel(size=(rows, experts)) + 0.7 * rng.standard_normal(experts)
        found[:, layer] = np.argpartition(-pull, slots, axis=1)[:, :slots]
    return found


@cache
def completion() -> Completion:
    """The answer of the second turn of the sample, with alternatives: the prompt is all before it."""
    sample, rng = made().sample, np.random.default_rng(3)
    before, end = sample.turns[1].completion_start, sample.turns[1].end
    ids, logprobs = sample.token_ids[before:end], sample.logprobs[before:end]
    others = rng.integers(256, tokenizer().get_vocab_size(), (end - before, 4)).astype(np.int32)
    scores = np.sort(np.log1p(-np.exp(logprobs) + 1e-9)[:, None] - rng.gamma(2, 1, (end - before, 4)), axis=1)[:, ::-1]
    top = TopLogprobs(
        np.column_stack([ids, others]).ravel(),
        np.column_stack([logprobs, scores.astype(np.float32)]).ravel().astype(np.float64),
        np.arange(0, 5 * (end - before) + 1, 5),
    )
    rows = sample.routed_experts
    assert rows is not None
    return Completion(
        token_ids=ids,
        logprobs=logprobs,
        top_logprobs=top,
        prompt_token_ids=sample.token_ids[:before],
        prompt_logprobs=None,
        routed_experts=RoutedExperts(rows[: end - 1].astype(np.uint8), 0, "uint8", complete=True),
        sampling_mask=None,
        finish_reason="stop",
        finish_reason_raw="stop",
        stop_reason=None,
        aborted=False,
        request_id="request-1",
        index=0,
        usage={"prompt_tokens": before, "completion_tokens": end - before},
        weight_versions=[
            {"version": "step_7", "start": 0, "end": 290},
            {"version": "step_8", "start": 290, "end": 690},
        ],
        sources={"token_ids": "choices[0].token_ids"},
    )


@cache
def made(*, layers: int = 24, slots: int = 4, seed: int = 7) -> Made:
    rng = np.random.default_rng(seed)
    text = (ROOT / "docs" / "rollouts.md").read_text()
    ids = np.array(tokenizer().encode(text * 2).ids[:2400], np.int32)
    count = len(ids)
    mask = np.zeros(count, np.bool_)
    turns: list[TurnSpan] = []
    for number, (start, completion, end) in enumerate([(0, 210, 900), (900, 1010, 1700), (1700, 1760, count)]):
        mask[completion:end] = True
        weights = [WeightSpan("step_7", completion, end)]
        if number == 1:
            weights = [WeightSpan("step_7", completion, 1300), WeightSpan("step_8", 1300, end)]
        elif number == 2:
            weights = [WeightSpan("step_8", completion, end)]
        finish = "length" if number == 2 else "stop"
        turns.append(TurnSpan(start, completion, end, finish, None, False, f"request-{number}", tuple(weights)))
    logprobs = np.where(mask, -rng.gamma(0.35, 1.6, count), np.nan).astype(np.float32).astype(np.float64)
    scored = logprobs + rng.standard_normal(count) * 0.004 * (1 + 6 * (rng.random(count) < 0.03))
    scored[1300:1700] += rng.standard_normal(400) * 0.03
    scored = np.minimum(scored, 0)
    rows = routes(rng, count, layers, slots, EXPERTS)
    rows[:, 0] = 0
    rows[400:450] = rows[400]
    rows[-1] = rows[-2]
    others = rows.copy()
    moved = rng.random((count, layers)) < 0.02
    moved[:, 0] = False
    others[moved, 0] = (others[moved].max(axis=1) + 1) % EXPERTS
    sample = TrainingSample(ids, mask, logprobs, Rows([rows]), tuple(turns), 0)
    other = TrainingSample(ids, mask, scored, Rows([others]), tuple(turns), 0)
    return Made(sample, other, scored)
