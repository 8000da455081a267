"""What the body of a sample decodes to."""

from __future__ import annotations

import math

import numpy as np

from dynamo_tito._types import Completion

from .bodies import Container, Dialect, Sample
from .checks import pairs, same


def check(
    completion: Completion, sample: Sample, dialect: Dialect, container: Container, *, first: int | None = None
) -> None:
    """Check every array of a completion against its sample.

    Args:
        completion: decoded with the prompt known, if the dialect does not echo it.
        sample: what the body was made of.
        dialect: how it was written.
        container: what routed experts were shipped in.
        first: the first position whose routed experts were asked for.
    """
    assert same(completion.token_ids, sample.tokens, np.int32)
    assert same(completion.logprobs, sample.logprobs, np.float64)
    assert same(completion.prompt_token_ids, sample.prompt if dialect.echo else None, np.int32)
    listed = dialect.top and any(sample.top)
    assert pairs(completion.top_logprobs) == repr(sample.top if listed else None)
    _check_prompt(completion, sample, dialect)
    _check_routed(completion, sample, container, first)
    mask = completion.sampling_mask
    rows = None if mask is None else [ids.tolist() for ids in mask]
    assert rows == (sample.mask if dialect.mask else None)


def _check_prompt(completion: Completion, sample: Sample, dialect: Dialect) -> None:
    found = completion.prompt_logprobs
    if sample.prompt_logprobs is None or not sample.prompt:
        assert found is None or len(found.logprobs) == 0
        return
    assert found is not None
    scored = [*zip(sample.prompt, sample.prompt_logprobs, strict=True)][1:]
    assert same(found.logprobs, [math.nan, *(entries[token] for token, entries in scored)], np.float64)
    alone = dialect.wire == "sglang_generate"  # which lists the prompt's own tokens only
    rows = [[(token, entries[token])] if alone else entries.items() for token, entries in scored]
    expected = [sorted((p for p in row if not alone or p[1] == p[1]), key=_order) for row in rows]
    assert pairs(found.top) == repr([[], *expected])


def _order(pair: tuple[int, float]) -> tuple[bool, float, int]:
    """Highest first, ties by id, NaN last."""
    token, score = pair
    return (True, 0.0, token) if math.isnan(score) else (False, -score, token)


def _check_routed(completion: Completion, sample: Sample, container: Container, first: int | None) -> None:
    routed = completion.routed_experts
    if sample.experts is None:
        assert routed is None
        return
    assert routed is not None
    start = max(first or 0, sample.start)
    assert same(routed.array, sample.experts[start - sample.start :], np.int32)
    assert routed.array.flags.c_contiguous
    assert routed.wire_dtype == ("int32" if container == "bare" else sample.experts.dtype.name)
    if container == "object" or first:
        assert routed.start == start
