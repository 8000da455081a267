"""Invented samples, from a seed: small ones for bodies that are kept, large ones for measuring."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bodies import Experts, Sample

VOCABULARY = 151_936


def invent(
    seed: int,
    *,
    prompt: int,
    completion: int,
    layers: int = 4,
    top_k: int = 2,
    experts: int = 128,
    top: int = 0,
    start: int = 0,
    prompt_logprobs: bool = False,
    mask: bool = False,
) -> Sample:
    """A sample whose log-probabilities are float32 values, as engines have them.

    Args:
        seed: of the generator.
        prompt: tokens of the prompt.
        completion: tokens that were sampled.
        layers: decoder layers; 0 leaves routed experts out.
        top_k: experts per token and layer.
        experts: how many there are; more than 256 make the ids two bytes wide.
        top: alternatives per position, the sampled token first.
        start: the first position whose routing the server returns.
        prompt_logprobs: whether the prompt is scored.
        mask: whether the surviving vocabulary is listed.
    """
    # RandomState's streams are frozen, so a seed means the same sample on every numpy.
    rng = np.random.RandomState(seed)
    tokens = rng.randint(0, VOCABULARY, completion).tolist()
    logprobs = _logprobs(rng, completion)
    prompt_ids = rng.randint(0, VOCABULARY, prompt).tolist()
    return Sample(
        prompt=prompt_ids,
        tokens=tokens,
        logprobs=logprobs,
        top=_alternatives(rng, tokens, logprobs, top),
        prompt_logprobs=_prompt_scores(rng, prompt_ids) if prompt_logprobs else None,
        mask=[sorted({token, *rng.randint(0, VOCABULARY, 3).tolist()}) for token in tokens] if mask else None,
        experts=_experts(rng, prompt + completion - 1 - start, layers, top_k, experts) if layers else None,
        start=start,
    )


def _logprobs(rng: np.random.RandomState, count: int) -> list[float]:
    """Mostly confident, with a long tail, as sampled tokens are."""
    values: list[float] = (-rng.gamma(0.25, 1.6, count)).astype(np.float32).astype(np.float64).tolist()
    return values


def _alternatives(
    rng: np.random.RandomState, tokens: list[int], logprobs: list[float], count: int
) -> list[list[tuple[int, float]]]:
    if not count:
        return [[] for _ in tokens]
    ids = rng.randint(0, VOCABULARY, (len(tokens), count - 1)).tolist()
    scores = [_logprobs(rng, count - 1) for _ in tokens]
    return [
        [(token, logprob), *zip(others, values, strict=True)]
        for token, logprob, others, values in zip(tokens, logprobs, ids, scores, strict=True)
    ]


def _prompt_scores(rng: np.random.RandomState, prompt: list[int]) -> list[dict[int, float]]:
    """The actual token and one alternative per position, in no stable order."""
    scores = []
    for token in prompt:
        own, other = _logprobs(rng, 2)
        pair = [(token, own), ((token + 1) % VOCABULARY, other)]
        scores.append(dict(pair if rng.random_sample() < 0.5 else pair[::-1]))
    return scores


def _experts(rng: np.random.RandomState, rows: int, layers: int, top_k: int, experts: int) -> Experts:
    dtype: Any = np.uint8 if experts <= 256 else np.uint16
    array: Experts = rng.randint(0, experts, (rows, layers, top_k), dtype=dtype)
    return array
