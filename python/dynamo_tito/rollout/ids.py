"""The tokens of the sequence that is growing, in one piece, so that a prompt is a view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array

_SMALLEST = 1024


class GrowingIds:
    """int32 token ids with room behind them.

    Views that were handed out never change: what lies behind the last token handed out is written once, and where it
    would be written again, the tokens move.
    """

    __slots__ = ("_ids", "_written")

    def __init__(self) -> None:
        self._ids: Int32Array = np.empty(_SMALLEST, np.int32)
        self._written = 0

    def view(self, end: int) -> Int32Array:
        """The first ``end`` tokens, read-only."""
        view = self._ids[:end]
        view.flags.writeable = False
        return view

    def extended(self, end: int, added: Int32Array) -> Int32Array:
        """The first ``end`` tokens and what is added to them, read-only."""
        total = end + len(added)
        if end < self._written or total > len(self._ids):
            moved: Int32Array = np.empty(max(_SMALLEST, 2 * total), np.int32)
            moved[:end] = self._ids[:end]
            self._ids = moved
        self._ids[end:total] = added
        self._written = total
        return self.view(total)

    def adopt(self, prompt: Int32Array, completion: Int32Array) -> None:
        """Hold ``prompt``, which may be a view of these tokens, and a completion behind it."""
        if prompt.base is not self._ids or len(prompt) != self._written:
            self._ids = np.array(prompt, np.int32)
            self._written = len(prompt)
        self.extended(len(prompt), completion)
