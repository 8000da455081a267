"""Routing across turns: every row once, at wire width, in the chunk of the turn that brought it.

The engine has no row for the last token it sampled; the next turn, whose prefill runs that token, brings it. So no row
is ever filled in here: a policy names the one row that is missing when a sample is made, and the next turn's row for
the same position simply follows the last one held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dynamo_tito._errors import RoutedExpertsError

if TYPE_CHECKING:
    from dynamo_tito._types import RoutedExperts

Chunk: TypeAlias = NDArray[np.integer[Any]]

FinalRowPolicy: TypeAlias = Literal["repeat", "zeros", "spread", "drop"]
"""The row of the last sampled token, which has no forward pass: the row before it, zeros, expert j in slot j, or the
token is dropped with all that belongs to it."""


_COPY_BELOW = 4 << 20
"""Bytes of a turn's rows that are copied out of the decoder's block: it may be larger than they are, and the next
response is decoded into it. More stay where they are, so that even for a moment they are not held twice."""


def new_rows(experts: RoutedExperts, *, held: int, end: int, omitted: int, like: Chunk | None) -> tuple[Chunk, Chunk]:
    """Split a turn's rows where those held end.

    Args:
        experts: what the turn brought.
        held: rows held of the sequence, from position 0 on.
        end: tokens of the sequence, the turn's included.
        omitted: how many of them have no row: the last one, unless the engine sends that, too.
        like: any earlier rows, whose layers and top-k these must share.

    Returns:
        The rows for positions that are held already, and the new ones, at wire width.

    Raises:
        RoutedExpertsError: kind ``"gap"`` (row 0 lies behind the rows held), ``"rows"`` (not one row per token that
            has one) or ``"shape"``.
    """
    rows = experts.array
    start, stop = experts.start, experts.start + len(rows)
    if start > held:
        raise RoutedExpertsError(
            f"routed experts begin at position {start}, only {held} rows are held: those between are missing",
            kind="gap",
        )
    if stop != end - omitted and (experts.complete or stop > end - omitted):
        all_but = "each token but the last" if omitted else "each token, the last one too,"
        message = f"{len(rows)} rows from position {start} on do not add up to one for {all_but} of {end}"
        if stop == end:
            message += "; where the engine sends a row for the last token, say so: Rollout(..., final_row='present')"
        elif stop == end - 1:
            message += ", as Rollout(..., final_row='present') says; the engine omits that of the last"
        raise RoutedExpertsError(message, kind="rows")
    if like is not None and rows.shape[1:] != like.shape[1:]:
        raise RoutedExpertsError(
            f"rows are {rows.shape[1]} x {rows.shape[2]}, earlier turns had {like.shape[1]} x {like.shape[2]}",
            kind="shape",
        )
    surplus = min(held - start, len(rows))
    return rows[:surplus], _narrow(rows[surplus:], experts.wire_dtype, alone=surplus <= 1)


def joined_rows(before: Chunk | None, after: Chunk | None) -> Chunk | None:
    """The rows of two segments of a turn, the second behind the first; None where neither has any."""
    if before is None or after is None or not len(after):
        return after if before is None else before
    return np.concatenate([before, after]) if len(before) else after


def _narrow(rows: Chunk, wire: str, *, alone: bool) -> Chunk:
    """At wire width, without the memory of dropped rows."""
    if rows.dtype == wire:
        return rows if alone and rows.nbytes >= _COPY_BELOW else rows.copy()
    narrow = rows.astype(wire)
    if not np.array_equal(narrow, rows):
        raise RoutedExpertsError(f"ids do not fit {wire}, the width they are said to have had", kind="dtype")
    return narrow


class Rows:
    """The routing of a run of tokens: chunks until it is asked for as one array."""

    __slots__ = ("_chunks", "_shape")

    _shape: tuple[int, ...]

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = deque(chunks)
        self._shape = (sum(map(len, self._chunks)), *self._chunks[0].shape[1:])

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, layers, top-k."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest width that holds every chunk."""
        return np.result_type(*(chunk.dtype for chunk in self._chunks))

    def array(self) -> Chunk:
        """[rows, layers, top_k] in one piece, kept from now on.

        Each chunk is dropped once copied, so that memory holds no second copy unless the caller keeps one.
        """
        if len(self._chunks) > 1:
            whole = np.empty(self._shape, self.dtype)
            filled = 0
            while self._chunks:
                chunk = self._chunks.popleft()
                whole[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
                del chunk
            self._chunks.append(whole)
        return self._chunks[0]

    def copy_as(self, dtype: DTypeLike) -> Chunk:
        """A copy of another width."""
        whole = np.empty(self._shape, dtype)
        self.copy_into(whole)
        return whole

    def copy_into(self, whole: Chunk) -> None:
        """Write the rows into an array of the same shape; the chunks stay as they are."""
        filled = 0
        for chunk in self._chunks:
            whole[filled : filled + len(chunk)] = chunk
            filled += len(chunk)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, ([*self._chunks],)

    def __getitem__(self, span: slice) -> Rows:
        first, last, _ = span.indices(len(self))
        parts, start = [], 0
        for chunk in self._chunks:
            part = chunk[max(first - start, 0) : max(last - start, 0)]
            start += len(chunk)
            if len(part):
                parts.append(part)
        return Rows(parts or [self._chunks[0][:0]])


def complete(chunks: list[Chunk], *, tokens: int, policy: FinalRowPolicy) -> Rows:
    """The rows of ``tokens`` tokens, of which the last may lack one; with ``"drop"``, as many rows as there are.

    Raises:
        RoutedExpertsError: more rows are missing, or there is none to repeat.
    """
    missing = tokens - sum(map(len, chunks))
    if missing and policy != "drop":
        if missing > 1:
            raise RoutedExpertsError(
                f"{missing} of {tokens} rows are missing, as a turn that was aborted or came without routing leaves "
                "them; the next turn or Rollout.resume brings them, final_row='drop' drops their tokens",
                kind="rows",
            )
        chunks = [*chunks, _final_row(chunks, policy)]
    return Rows(chunks)


def _final_row(chunks: list[Chunk], policy: FinalRowPolicy) -> Chunk:
    last = next((chunk for chunk in reversed(chunks) if len(chunk)), None)
    if policy == "repeat":
        if last is None:
            raise RoutedExpertsError("there is no row to repeat", kind="rows")
        return last[-1:].copy()
    row = np.zeros((1, *chunks[-1].shape[1:]), chunks[-1].dtype)
    if policy == "spread":
        row[:] = np.arange(row.shape[2])
    return row
