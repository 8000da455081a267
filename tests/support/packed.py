"""prime-rl's packed forms of an answer, as renderers 0.1.13.dev17 reads them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bodies import Experts, routing_object
from .samples import VOCABULARY

FORMAT = "u32-f32-le-v1"
MASKED = -9999.0
"""What vLLM writes for a candidate that sampling cut off."""


@dataclass(frozen=True, slots=True)
class PackedSample:
    """One choice: at each of C positions n candidates, best first, of which one was sampled."""

    prompt: NDArray[np.int32]
    tokens: NDArray[np.int32]
    """[C]"""
    logprobs: NDArray[np.float32]
    """[C], of the sampled tokens."""
    candidates: NDArray[np.int32]
    """[C, n]; no id stands twice in a row."""
    scores: NDArray[np.float32]
    """[C, n]; the probabilities of the candidates that were kept add up to 1, the others are MASKED."""
    counts: NDArray[np.int32]
    """[C]; how many candidates were kept."""
    experts: Experts | None

    @property
    def mask(self) -> NDArray[np.int32]:
        """The ids that could be sampled, end to end."""
        kept: NDArray[np.int32] = self.candidates[np.arange(self.candidates.shape[1]) < self.counts[:, None]]
        return kept


def invent(
    seed: int, *, prompt: int, completion: int, candidates: int, masked: bool = False, layers: int = 0, top_k: int = 0
) -> PackedSample:
    """A sample from a seed. Without ``masked`` every candidate is kept."""
    rng = np.random.RandomState(seed)
    rows = np.arange(completion)
    counts = np.full(completion, candidates, np.int32)
    if masked:
        counts = rng.randint(1, candidates + 1, completion).astype(np.int32)
    kept = np.arange(candidates) < counts[:, None]
    scores = np.where(kept, -np.sort(-rng.gumbel(0, 2.0, (completion, candidates)), axis=1), -np.inf)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    # Ids of one row are different: each is in a part of the vocabulary of its own.
    part = VOCABULARY // candidates
    ids = rng.randint(0, part, (completion, candidates)) + part * np.arange(candidates)
    sampled = (rng.random_sample(completion) ** 3 * counts).astype(np.int64)
    values = np.where(kept, scores, MASKED).astype(np.float32)
    shape = (prompt + completion - 1, layers, top_k)
    return PackedSample(
        prompt=rng.randint(0, VOCABULARY, prompt).astype(np.int32),
        tokens=ids[rows, sampled].astype(np.int32),
        logprobs=values[rows, sampled],
        candidates=ids.astype(np.int32),
        scores=values,
        counts=counts,
        experts=rng.randint(0, 128, shape, dtype=np.uint8) if layers else None,
    )


def array(values: NDArray[Any]) -> dict[str, Any]:
    """A packed array."""
    return {"data": _text(values.tobytes()), "shape": list(values.shape), "dtype": values.dtype.name}


def compact(sample: PackedSample) -> dict[str, Any]:
    """`compact_logprobs`: the sampled token and then the candidates of each position, the sampled one among them."""
    ids = np.column_stack([sample.tokens, sample.candidates]).astype("<u4")
    values = np.column_stack([sample.logprobs, sample.scores]).astype("<f4")
    return {
        "data": _text(ids.tobytes() + values.tobytes()),
        "offsets": [ids.shape[1] * row for row in range(len(ids) + 1)],
        "format": FORMAT,
        "num_top_logprobs": sample.candidates.shape[1],
    }


def choice(sample: PackedSample, *, rows: bool = False, mask: bool = False) -> dict[str, Any]:
    """`choices[i]`, with rows of candidates or with the sampled tokens' log-probabilities alone."""
    logprobs = {"compact_logprobs": compact(sample)} if rows else {"completion_logprobs": array(sample.logprobs)}
    kept = {"ids": array(sample.mask), "counts": array(sample.counts)} if mask else None
    experts = None if sample.experts is None else routing_object(sample.experts)
    return {
        "index": 0,
        "token_ids": sample.tokens.tolist(),
        "finish_reason": "length",
        "stop_reason": None,
        **logprobs,
        "routed_experts": experts,
        "sampling_mask": kept,
        "weight_versions": [{"version": "step_7", "start": 0, "end": len(sample.tokens)}],
    }


def answer(sample: PackedSample, *, rows: bool = False, mask: bool = False) -> dict[str, Any]:
    """A whole answer of `/inference/v1/generate`."""
    prompt, completion = len(sample.prompt), len(sample.tokens)
    return {
        "request_id": "generate-tokens-8f0c",
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        "choices": [choice(sample, rows=rows, mask=mask)],
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
