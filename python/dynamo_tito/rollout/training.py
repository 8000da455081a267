"""From the turns of a sequence to a training sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from dynamo_tito._errors import AlignmentError

from . import tree
from .routing import FinalRowPolicy, complete
from .sample import TrainingSample, TurnSpan, WeightSpan, cut

if TYPE_CHECKING:
    from .tree import Part, Turn


def make_sample(turn: Turn, *, final_row: FinalRowPolicy, shared: int = 0) -> TrainingSample:
    """The sequence that ends with ``turn``."""
    if final_row not in get_args(FinalRowPolicy):
        raise ValueError(f"final_row must be one of {', '.join(get_args(FinalRowPolicy))}, not {final_row!r}")
    parts = tree.parts(turn)
    ids = tree.token_ids(turn)
    mask = np.zeros(len(ids), np.bool_)
    logprobs = np.full(len(ids), np.nan)
    for part in parts:
        first = part.turn.completion_start
        count = max(part.end - first, 0)
        mask[first : first + count] = True
        if part.turn.logprobs is not None:
            logprobs[first : first + count] = part.turn.logprobs[:count]
    chunks = tree.rows(turn)
    rows = complete(chunks, tokens=len(ids), policy=final_row) if chunks else None
    kept = len(ids) if rows is None else len(rows)
    spans = tuple(cut(_span(part), 0, kept) for part in parts if part.turn.start < kept)
    return TrainingSample(ids[:kept], mask[:kept], logprobs[:kept], rows, spans, min(shared, kept))


def _span(part: Part) -> TurnSpan:
    turn = part.turn
    start = min(turn.completion_start, part.end)
    return TurnSpan(
        turn.start,
        start,
        part.end,
        turn.finish_reason,
        turn.stop_reason,
        turn.aborted,
        turn.request_id,
        tuple(
            WeightSpan(span.version, span.start, min(span.end, part.end))
            for span in (_weights(fields, turn) for fields in turn.weight_versions if set(fields) != {"version"})
            if span.start < part.end
        ),
    )


def _weights(fields: dict[str, Any], turn: Turn) -> WeightSpan:
    """A span of the completion, as the wire has it, in positions of the sequence."""
    try:
        version, start, end = str(fields["version"]), int(fields["start"]), int(fields["end"])
    except (KeyError, TypeError, ValueError):
        raise AlignmentError(
            f"weight_versions hold {fields!r}, not a version with start and end", kind="type", path="weight_versions"
        ) from None
    if not 0 <= start <= end <= len(turn.token_ids):
        raise AlignmentError(
            f"weights {version!r} are of tokens {start} to {end}, the completion has {len(turn.token_ids)}",
            kind="range",
            path="weight_versions",
        )
    return WeightSpan(version, turn.completion_start + start, turn.completion_start + end)
