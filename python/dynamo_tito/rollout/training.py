"""From the turns of a sequence to a training sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from . import tree
from .routing import FinalRowPolicy, complete
from .sample import TrainingSample, TurnSpan, cut
from .segments import logprobs_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tree import Part, Turn


def make_sample(turn: Turn, *, final_row: FinalRowPolicy, shared: int = 0) -> TrainingSample:
    """The sequence that ends with ``turn``."""
    if final_row not in get_args(FinalRowPolicy):
        raise ValueError(f"final_row must be one of {', '.join(get_args(FinalRowPolicy))}, not {final_row!r}")
    parts = tree.parts(turn)
    ids = tree.token_ids(turn)
    mask = np.zeros(len(ids), np.bool_)
    logprobs = np.full(len(ids), np.nan, logprobs_dtype(part.turn.logprobs for part in parts) or np.float64)
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


def make_samples(leaves: Iterable[Turn], *, final_row: FinalRowPolicy) -> list[TrainingSample]:
    """The sequences that end with ``leaves``, each with the tokens that it shares with an earlier one."""
    seen: list[Turn] = []
    found = []
    for leaf in leaves:
        shared = max((_shared(leaf, other) for other in seen), default=0)
        found.append(make_sample(leaf, final_row=final_row, shared=shared))
        seen.append(leaf)
    return found


def _shared(leaf: Turn, other: Turn) -> int:
    """Tokens that two branches have in common because they are the same ones."""
    ends = {id(part.turn): part.end for part in tree.parts(other)}
    return max((min(part.end, ends[id(part.turn)]) for part in tree.parts(leaf) if id(part.turn) in ends), default=0)


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
            replace(span, start=first, end=min(first + span.end - span.start, part.end))
            for span in turn.weight_versions
            if (first := turn.completion_start + span.start) < part.end
        ),
    )
