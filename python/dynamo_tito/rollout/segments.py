"""The answers that make a turn. A turn that was cut and resumed has several; its arrays join them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from dynamo_tito._errors import AlignmentError
from dynamo_tito._types import SamplingMask

if TYPE_CHECKING:
    from dynamo_tito._types import Completion, IndexerTopk, Int32Array, LogprobArray

T = TypeVar("T")

Piece: TypeAlias = tuple["Int32Array", T | None, bool]
"""A segment's tokens, a column of it, and whether it was cut off."""

_PATH = "weight_versions"
_DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class WeightSpan:
    """Sampled tokens [start, end), and the version of the weights that sampled them.

    Attributes:
        version: as the server names it.
        start, end: in a :class:`Segment` and a turn positions in ``Turn.token_ids``, in a sample those of the sample.
        measured: True where the engine recorded which tokens the version sampled. False where the answer carries a bare
            label (SGLang's ``meta_info.weight_version`` without spans): the version in force when the answer was
            written. Tokens that were sampled before an update in flight are then of an older one.
    """

    version: str
    start: int
    end: int
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Segment:
    """One answer of the server to a turn.

    Attributes:
        start, stop: its tokens are ``Turn.token_ids[start:stop]``.
        finish_reason: why it ended, normalised as in :class:`dynamo_tito.Completion`.
        aborted: whether it was cut off; None where the wire cannot tell.
        weight_versions: which weights sampled which of its tokens.
        request_id: the server's id.
        indexer_topk: the rows that the answer brought, of positions in the sequence; a sample has none.
    """

    start: int
    stop: int
    finish_reason: str | None
    aborted: bool | None
    weight_versions: tuple[WeightSpan, ...]
    request_id: str | None
    indexer_topk: IndexerTopk | None = None


def segment_of(completion: Completion, start: int) -> Segment:
    """The answer that continues a turn of ``start`` sampled tokens.

    Raises:
        AlignmentError: kind ``"type"`` or ``"range"``: weight versions that are no spans of its tokens.
    """
    count = len(completion.token_ids)
    spans = tuple(_span(fields, count, start) for fields in completion.weight_versions or ())
    for before, span in pairwise(spans):
        if span.start < before.end:
            raise AlignmentError(
                f"weights {span.version!r} begin at token {span.start - start}, before those of {before.version!r} end "
                f"at {before.end - start}",
                kind="range",
                path=_PATH,
            )
    return Segment(
        start,
        start + count,
        completion.finish_reason,
        completion.aborted,
        spans,
        completion.request_id,
        completion.indexer_topk,
    )


def merged(spans: Iterable[WeightSpan]) -> tuple[WeightSpan, ...]:
    """Spans without the empty ones; adjoining spans of one version are one."""
    found: list[WeightSpan] = []
    for span in spans:
        if span.start == span.end:
            continue
        last = found[-1] if found else None
        if last is not None and (last.version, last.measured, last.end) == (span.version, span.measured, span.start):
            found[-1] = replace(last, end=span.end)
        else:
            found.append(span)
    return tuple(found)


def age_by(order: Callable[[str], Any] | Sequence[str] | None, example: str) -> Callable[[str], Any]:
    """What to compare versions by, older ones first; see :meth:`TrainingSample.mask_off_policy`.

    The function that is returned raises ValueError for a version that has no place.
    """
    if callable(order):
        return order
    if order is not None:
        if isinstance(order, str) or not isinstance(order, Sequence):
            raise TypeError(f"order must be a sequence of versions or a function, not {type(order).__name__}")
        places = {version: place for place, version in enumerate(order)}
        if len(places) < len(order):
            raise ValueError(f"a version stands twice in the order {list(order)}")

        def place(version: str) -> int:
            if version not in places:
                raise ValueError(f"version {version!r} is not in the order given, {list(places)}")
            return places[version]

        return place
    text = example.rstrip(_DIGITS)

    def number(version: str) -> int:
        if version.rstrip(_DIGITS) != text or len(version) == len(text):
            raise ValueError(
                f"versions {version!r} and {example!r} are not one text with a whole number behind it; say with order "
                "which is older"
            )
        return int(version[len(text) :])

    return number


def joined_ids(before: Int32Array, after: Int32Array) -> Int32Array:
    """int32: the tokens of two segments."""
    return np.concatenate([before, after]) if len(after) else before


def joined_logprobs(pieces: Sequence[Piece[LogprobArray]], _: str) -> LogprobArray | None:
    """The log-probabilities of all segments, NaN for one without; None where none has any.

    float32 where all of them are, else float64.
    """
    dtype = logprobs_dtype(given for _, given, _ in pieces)
    if dtype is None:
        return None
    return np.concatenate([np.full(len(ids), np.nan, dtype) if given is None else given for ids, given, _ in pieces])


def logprobs_dtype(arrays: Iterable[LogprobArray | None]) -> np.dtype[np.float64] | np.dtype[np.float32] | None:
    """float32 where all of the arrays are, else float64; None without an array."""
    given = [array for array in arrays if array is not None]
    return np.result_type(*given) if given else None


def joined_masks(pieces: Sequence[Piece[SamplingMask]], name: str) -> SamplingMask | None:
    """The sampling masks of all segments, which the attribute ``name`` holds.

    A segment without one that was cut off has rows without an id: a server may send the mask in its last event.

    Raises:
        AlignmentError: kind ``"count"``: another segment with tokens has no mask, and one has.
    """
    masks = [(ids, mask, cut) for ids, mask, cut in pieces if len(ids)]
    if all(mask is None for _, mask, _ in masks):
        return None
    found = [_unknown(ids) if mask is None and cut else mask for ids, mask, cut in masks]
    kept = [mask for mask in found if mask is not None]
    if len(kept) < len(found):
        raise AlignmentError(
            f"{len(kept)} of {len(found)} answers of this turn hold a sampling mask; ask for it in all or in none",
            kind="count",
            path=name,
        )
    ends = np.cumsum([0, *(len(mask.token_ids) for mask in kept)])
    offsets = [kept[0].offsets[:1], *(mask.offsets[1:] + end for mask, end in zip(kept, ends, strict=False))]
    return SamplingMask(np.concatenate([mask.token_ids for mask in kept]), np.concatenate(offsets))


def _unknown(ids: Int32Array) -> SamplingMask:
    """A row without an id for each token; no server sends one, for it holds the sampled token."""
    return SamplingMask(np.empty(0, np.int32), np.zeros(len(ids) + 1, np.int64))


def _span(fields: Any, count: int, first: int) -> WeightSpan:
    """One entry of ``Completion.weight_versions``; positions on the wire are those of the answer's tokens."""
    try:
        version = str(fields["version"])
        if "start" not in fields and "end" not in fields:
            return WeightSpan(version, first, first + count, measured=False)
        start, end = int(fields["start"]), int(fields["end"])
    except (KeyError, TypeError, ValueError):
        raise AlignmentError(
            f"weight_versions hold {fields!r}, neither a version with start and end nor a version alone",
            kind="type",
            path=_PATH,
        ) from None
    if not 0 <= start <= end <= count:
        raise AlignmentError(
            f"weights {version!r} are of tokens {start} to {end}, the completion has {count}", kind="range", path=_PATH
        )
    return WeightSpan(version, first + start, first + end)
