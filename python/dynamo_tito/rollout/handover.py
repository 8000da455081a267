"""Gets the tokens of the next turn from the renderer, which receives as little of the conversation as it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import tree

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array

    from .bridge import Parsed, Renderer
    from .messages import Message
    from .tree import Turn

_PACKAGE = "renderers"

_PROVEN_AFTER = 3
_PROVE_BELOW = 8_192


class Handover:
    """Asks a renderer about the next turn.

    Renderers take and return whole conversations as lists, so the work for a turn grows with the conversation. It does
    not for a renderer with ``extension``, nor for one of the ``renderers`` package, which reads only from where its
    last turn begins. This is verified: the first turns are asked both ways. If the answers differ, or a message holds
    more than text, the whole conversation is handed over from then on.
    """

    def __init__(self, renderer: Renderer, tools: list[Any] | None) -> None:
        self._renderer = renderer
        self._tools = tools
        self._extension = getattr(renderer, "extension", None)
        self._last_turn_will_do = type(renderer).__module__.partition(".")[0] == _PACKAGE
        self._agreed = 0
        self._whole = _Whole()

    def added(self, turn: Turn, new: list[Message]) -> Int32Array | None:
        """What the next prompt adds to the sequence of ``turn``; None where the renderer cannot keep the sequence."""
        completion = turn.token_ids.tolist()
        if self._extension is not None:
            added = self._extension(completion, new, tools=self._tools)
            return None if added is None else int32(added)
        last = turn.prompt_ids.tolist()
        self._last_turn_will_do = self._last_turn_will_do and _only_text(turn.said) and _only_text(new)
        if not (self._last_turn_will_do and last and tree.follows(turn)):
            return self._bridged(self._whole.prompt(turn.parent, turn.start, last), completion, new)
        if self._proven(turn):
            self._whole = _Whole()
            return self._bridged(last, completion, new)
        found = self._bridged(self._whole.prompt(turn.parent, turn.start, last), completion, new)
        if turn.parent is not None:
            self._last_turn_will_do = _same(found, self._bridged(last, completion, new))
            self._agreed += 1
        return found

    def parsed(self, completion: Int32Array, prompt: Int32Array, parent: Turn | None, start: int) -> Parsed:
        """A completion as a message; the prompt's part from ``start`` on is new."""
        last = prompt[start:].tolist()
        # A prompt that was rendered anew may differ from the one before within a turn.
        alone = bool(last) and parent is not None and start == parent.end and self._alone_will_do(parent)
        shown = last if alone else self._whole.prompt(parent, start, last)[:]
        parsed: Parsed = self._renderer.parse_response(completion.tolist(), tools=self._tools, prompt_ids=shown)
        return parsed

    def _alone_will_do(self, turn: Turn) -> bool:
        return self._extension is not None or (self._last_turn_will_do and self._proven(turn))

    def _proven(self, turn: Turn) -> bool:
        return self._agreed >= _PROVEN_AFTER and turn.end > _PROVE_BELOW

    def _bridged(self, prompt: list[int], completion: list[int], new: list[Message]) -> Int32Array | None:
        # Copies: the renderer may change the lists.
        rendered = self._renderer.bridge_to_next_turn(prompt[:], completion[:], new, tools=self._tools)
        if rendered is None:
            return None
        ids = rendered.token_ids if isinstance(rendered.token_ids, list) else int32(rendered.token_ids).tolist()
        first, end = len(prompt), len(prompt) + len(completion)
        # Mostly the same objects as before, so comparing them is cheap.
        kept = ids[:first] == prompt and ids[first:end] == completion
        return int32(ids[end:]) if kept else None


class _Whole:
    """The prompt of the last turn as a list, which grows with the sequence instead of being made anew."""

    def __init__(self) -> None:
        self._parent: Turn | None = None
        self._start = 0
        self._ids: list[int] = []

    def prompt(self, parent: Turn | None, start: int, added: list[int]) -> list[int]:
        """The first ``start`` tokens of a sequence, and what is added to them."""
        if not self._holds(parent, start, added):
            if parent is not None and start == parent.end and self._is_of(parent):
                self._ids += parent.token_ids.tolist()
            else:
                self._ids = tree.token_ids(parent, start).tolist()
            self._ids += added
            self._parent, self._start = parent, start
        return self._ids

    def _is_of(self, turn: Turn) -> bool:
        return self._holds(turn.parent, turn.start, turn.prompt_ids.tolist())

    def _holds(self, parent: Turn | None, start: int, added: list[int]) -> bool:
        return self._parent is parent and self._start == start and self._ids[start:] == added


def int32(ids: Any) -> Int32Array:
    """Token ids of a renderer."""
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1 or (array.size and not 0 <= array.min() <= array.max() < 2**31):
        raise ValueError("the renderer's tokens are no token ids")
    return array.astype(np.int32)


def _same(one: Int32Array | None, other: Int32Array | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _only_text(messages: Sequence[Message]) -> bool:
    return all(isinstance(message.get("content", ""), str) for message in messages)
