"""Two scorings of one sequence, position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._types import PromptLogprobs

from .track import UNKNOWN, Routing, Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamo_tito._types import Float64Array


@dataclass(frozen=True, slots=True)
class Comparison:
    """The other scoring, placed at the positions of the first.

    Attributes:
        logprobs: float64 [N]; NaN where the other has none, and from the first other token on.
        routing: the other's rows up to there, or None.
        notes: what could not be compared, one sentence each.
    """

    logprobs: Float64Array
    routing: Routing | None
    notes: tuple[str, ...]


def compare(track: Track, other: Track | PromptLogprobs | NDArray[np.floating[Any]]) -> Comparison:
    """Place another scoring of a track's tokens.

    Args:
        track: N positions, C of them sampled.
        other: a track, aligned by its prompt, or by its first sampled token if its prompt is not known; or
            log-probabilities of all N tokens or of the C sampled ones.

    Raises:
        ValueError: the two have no token in common, or another number of values.
    """
    if isinstance(other, Track):
        return _of_track(track, other)
    values = np.asarray(other.logprobs if isinstance(other, PromptLogprobs) else other, np.float64)
    sampled = int(track.mask.sum())
    if values.shape == (len(track),):
        return Comparison(values, None, ())
    if values.shape == (sampled,):
        placed = np.full(len(track), np.nan)
        placed[track.mask] = values
        return Comparison(placed, None, ())
    raise ValueError(
        f"against has the shape {values.shape}: give one log-probability for each of {len(track)} tokens, or for each "
        f"of the {sampled} sampled ones"
    )


def _of_track(track: Track, other: Track) -> Comparison:
    shift = _first_sampled(track) - _first_sampled(other) if _bare(track) or _bare(other) else 0
    first, last = max(shift, 0), min(len(track), len(other) + shift)
    mine, theirs = track.token_ids[first:last], other.token_ids[first - shift : last - shift]
    differ = np.flatnonzero((mine != theirs) & (mine != UNKNOWN) & (theirs != UNKNOWN))
    notes = []
    if len(differ):
        last = first + int(differ[0])
        notes.append(f"The other has token {theirs[differ[0]]} at position {last}: compared up to there.")
    if last <= first:
        raise ValueError(f"the two begin with other tokens: {mine[:1].tolist()} and {theirs[:1].tolist()}")
    if last < len(track) and not len(differ):
        notes.append(f"The other ends at position {last}: compared up to there.")
    logprobs = np.full(len(track), np.nan)
    logprobs[first:last] = other.logprobs[first - shift : last - shift]
    routing, note = _routing(track.routing, other.routing, shift, last)
    return Comparison(logprobs, routing, (*notes, *note))


def _bare(track: Track) -> bool:
    """Whether the prompt's ids are not known."""
    return bool(track.mask[:1].all()) or bool((track.token_ids[:1] == UNKNOWN).all())


def _first_sampled(track: Track) -> int:
    return int(track.mask.argmax()) if track.mask.any() else len(track)


def _routing(
    mine: Routing | None, other: Routing | None, shift: int, last: int
) -> tuple[Routing | None, tuple[str, ...]]:
    if mine is None or other is None:
        return None, ()
    if mine.array.shape[1:] != other.array.shape[1:]:
        shapes = [" x ".join(map(str, routing.array.shape[1:])) for routing in (mine, other)]
        return None, (f"Routing is not compared: {shapes[0]} and {shapes[1]} (layers x experts a token).",)
    start = other.start + shift
    first, stop = max(start, 0), max(min(start + len(other.array), last), 0)
    return Routing(other.array[first - start : max(stop, first) - start], first), ()
