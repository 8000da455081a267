"""The turns of a rollout as a tree: every token and every row once, in the turn that brought it.

A turn continues its parent's sequence at a position, which is the parent's end unless the sequence had to be cut. What
belongs to a sequence is found by walking up; branches share all that lies before their cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .segments import Piece, joined_logprobs, joined_masks, merged

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array, LogprobArray, SamplingMask

    from .bridge import ParsedCall
    from .messages import Message
    from .routing import Chunk
    from .segments import Segment, WeightSpan


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One completion and the messages since the turn before. Positions are those in the sequence.

    Attributes:
        parent: the turn whose sequence this one continues; None for a first turn.
        number: how many turns the sequence had before.
        start: position of the first token of this turn; the parent's tokens from there on are not part of it.
        prompt_ids: int32, what this turn added to the prompt; never sampled.
        token_ids: int32 [C], what the engine sampled.
        logprobs: float64 or float32 [C], NaN where the engine gave none.
        sampling_mask: the vocabulary that survived at each sampled token, where the engine sends it. A row without an
            id is not known: of an answer that was cut before the server sent its mask.
        sampling_logprobs: float64 or float32 [C], the sampler's own, as of a :class:`dynamo_tito.Completion`.
        message: the assistant's message.
        tool_calls: every attempt at a tool call, malformed ones too, as the renderer parsed it.
        finish_reason: as of the engine; ``"tool_calls"`` where it stopped after a well-formed call.
        stop_reason: as of the completion.
        segments: the answers that the turn is made of, first to last: one, and one more for each time it was resumed.
    """

    parent: Turn | None = field(repr=False)
    number: int
    start: int
    prompt_ids: Int32Array = field(repr=False)
    token_ids: Int32Array = field(repr=False)
    logprobs: LogprobArray | None = field(repr=False, metadata={"join": joined_logprobs})
    sampling_mask: SamplingMask | None = field(repr=False, metadata={"join": joined_masks})
    sampling_logprobs: LogprobArray | None = field(repr=False, metadata={"join": joined_logprobs})
    message: Message
    tool_calls: Sequence[ParsedCall] = field(repr=False)
    finish_reason: str | None
    stop_reason: int | str | None
    segments: tuple[Segment, ...]
    #: The keywords of its request; the request for its rest has the same.
    asked: Mapping[str, Any] = field(repr=False)
    #: New routing rows, which begin where those of the sequence before end; None if the server sends none.
    rows: Chunk | None = field(repr=False)
    rows_start: int = field(repr=False)
    #: The messages since ``base``, whose conversation this turn continues.
    base: Turn | None = field(repr=False)
    said: tuple[Message, ...] = field(repr=False)
    fingerprint: bytes = field(repr=False)

    @property
    def aborted(self) -> bool | None:
        """Whether the last answer was cut off, so the turn can be resumed; None where the wire does not show it."""
        return self.segments[-1].aborted

    @property
    def request_id(self) -> str | None:
        """The server's id of the last answer."""
        return self.segments[-1].request_id

    @property
    def weight_versions(self) -> tuple[WeightSpan, ...]:
        """Which weights sampled which of ``token_ids``."""
        return merged(span for segment in self.segments for span in segment.weight_versions)

    @property
    def completion_start(self) -> int:
        """Position of the first sampled token."""
        return self.start + len(self.prompt_ids)

    @property
    def end(self) -> int:
        """Position behind the last sampled token: the tokens of the sequence."""
        return self.completion_start + len(self.token_ids)

    @property
    def rows_end(self) -> int:
        """Routing rows of the sequence up to this turn's end."""
        return self.rows_start + (0 if self.rows is None else len(self.rows))


#: Attributes that a turn takes from its completion, and how those of a resumed turn join.
JOINED: Mapping[str, Callable[[Sequence[Piece[Any]], str], Any]] = {
    column.name: column.metadata["join"] for column in fields(Turn) if "join" in column.metadata
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a turn contributes to a sequence: its tokens up to a position."""

    turn: Turn
    end: int


def parts(turn: Turn | None, end: int | None = None) -> list[Part]:
    """The turns of a sequence, first to last, up to position ``end``."""
    found: list[Part] = []
    while turn is not None:
        end = turn.end if end is None else min(end, turn.end)
        # A turn without tokens may still have the row of the token before it.
        if end > turn.start or end == turn.end:
            found.append(Part(turn, end))
        end, turn = min(end, turn.start), turn.parent
    return found[::-1]


def owner(turn: Turn | None, end: int) -> Turn | None:
    """The turn of the sequence that holds the token before position ``end``."""
    while turn is not None and end <= turn.start:
        turn = turn.parent
    return turn


def follows(turn: Turn) -> bool:
    """Whether the turn begins where its parent ends, and not within it."""
    return turn.parent is None or turn.start == turn.parent.end


def token_ids(turn: Turn | None, end: int | None = None) -> Int32Array:
    """int32: the tokens of a sequence."""
    pieces: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    for part in parts(turn, end):
        pieces.append(part.turn.prompt_ids[: max(part.end - part.turn.start, 0)])
        pieces.append(part.turn.token_ids[: max(part.end - part.turn.completion_start, 0)])
    return np.concatenate(pieces)


def rows(turn: Turn | None, end: int | None = None) -> list[Chunk]:
    """The routing rows of a sequence, from position 0 on, as far as they are held."""
    return [
        part.turn.rows[: max(part.end - part.turn.rows_start, 0)]
        for part in parts(turn, end)
        if part.turn.rows is not None
    ]


def some_rows(turn: Turn | None) -> Chunk | None:
    """Rows of the turn, or of the nearest one before it that brought any."""
    while turn is not None and turn.rows is None:
        turn = turn.parent
    return None if turn is None else turn.rows


def rows_held(turn: Turn | None, end: int) -> int:
    """How many they are."""
    if turn is None:
        return 0
    return turn.rows_end if end == turn.end else sum(map(len, rows(turn, end)))


def conversation(turn: Turn | None) -> list[Message]:
    """Every message up to and including the turn's own."""
    said: list[Message] = []
    while turn is not None:
        said[:0] = [*turn.said, turn.message]
        turn = turn.base
    return said
