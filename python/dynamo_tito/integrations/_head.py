"""The most likely tokens of each position, chosen without regard to which one was sampled."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dynamo_tito._types import Completion, TopLogprobs

_MASS = 1e-4


class HeadError(ValueError):
    """The alternatives of an answer do not give the head that was asked for."""


def head_of(completion: Completion, size: int) -> tuple[list[list[int]], list[list[float]]]:
    """Ids and log-probabilities of the ``size`` most likely tokens at each position, highest first, ties by id.

    Where the last of them ties with the first one left out, all that tie are left out: which of them an engine lists
    depends on what was sampled. With a sampling mask the head is the whole mask.

    Raises:
        HeadError: alternatives are missing, disagree with the sampled token, or are no distribution.
    """
    top, mask = completion.top_logprobs, completion.sampling_mask
    if not len(completion.token_ids):
        return [], []
    if top is None:
        raise HeadError("no alternatives in the answer")
    rows = np.repeat(np.arange(len(top)), np.diff(top.offsets))
    _check_sampled(completion, top, rows)
    kept = np.isfinite(top.logprobs)
    if mask is not None:
        kept &= _within(top, mask, rows)
    ids, logprobs, rows = top.token_ids[kept], top.logprobs[kept], rows[kept]
    order = np.lexsort((ids, -logprobs, rows))
    ids, logprobs, rows = ids[order], logprobs[order], rows[order]
    if mask is None:
        if np.diff(top.offsets).min() < size + 2:
            raise HeadError(f"fewer alternatives than {size + 2}")
        chosen = _first(logprobs, rows, len(top), size)
        ids, logprobs, rows = ids[chosen], logprobs[chosen], rows[chosen]
    counts = np.bincount(rows, minlength=len(top))
    masses = np.bincount(rows, weights=np.exp(logprobs), minlength=len(top))
    wrong = np.abs(masses - 1) > _MASS if mask is not None else masses > 1 + _MASS
    if wrong.any() or not counts.all():
        raise HeadError("the probabilities of the head are none")
    return _ragged(ids, counts), _ragged(logprobs, counts)


def _first(logprobs: Any, rows: Any, count: int, size: int) -> Any:
    """The first ``size`` of each row, without those that tie with the next one."""
    begins = np.searchsorted(rows, np.arange(count))
    rank = np.arange(len(rows)) - begins[rows]
    boundary = np.full(count, -np.inf)
    following = rank == size
    boundary[rows[following]] = logprobs[following]
    return (rank < size) & (logprobs > boundary[rows])


def _check_sampled(completion: Completion, top: TopLogprobs, rows: Any) -> None:
    assert completion.logprobs is not None  # noqa: S101 - asked for
    same = top.token_ids == completion.token_ids[rows]
    if not np.isclose(top.logprobs[same], completion.logprobs[rows[same]], rtol=1e-6, atol=1e-5).all():
        raise HeadError("the sampled token has two log-probabilities")


def _within(top: TopLogprobs, mask: Any, rows: Any) -> Any:
    """Which alternatives are in the mask of their position; all of the mask must be among them."""
    wide = np.int64(1) << 32
    listed = rows * wide + top.token_ids
    allowed = np.repeat(np.arange(len(mask)), np.diff(mask.offsets)) * wide + mask.token_ids
    if not np.isin(allowed, listed[np.isfinite(top.logprobs)]).all():
        raise HeadError("a token of the sampling mask has no log-probability")
    return np.isin(listed, allowed)


def _ragged(values: Any, counts: Any) -> list[list[Any]]:
    flat, ends = values.tolist(), np.cumsum(counts).tolist()
    return [flat[begin:end] for begin, end in pairwise([0, *ends])]
