"""Plans the next prompt: the sequence that is held and what is added to it, or where that drifted. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import DriftError

from . import tree
from .handover import Handover, int32
from .messages import NO_MESSAGES, fingerprints
from .plan import Drift, Plan

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array

    from .bridge import Renderer
    from .held import Held
    from .messages import Message
    from .plan import DriftKind, OnDrift
    from .tree import Turn


class Planner:
    """Plans the next prompt of what a rollout holds.

    Attributes:
        on_drift: see :data:`OnDrift`.
        drifts: every drift so far, in order.
    """

    def __init__(
        self, held: Held, renderer: Renderer, handover: Handover, tools: list[Any] | None, on_drift: OnDrift
    ) -> None:
        self.on_drift: OnDrift = on_drift
        self.drifts: list[Drift] = []
        self._held = held
        self._renderer = renderer
        self._handover = handover
        self._tools = tools

    def resume(self) -> Plan:
        """The current sequence as it is, for the rest of its last turn.

        Raises:
            ValueError: there is no turn, the conversation went on from it, or it is whole.
        """
        turn = self._held.head
        if turn is None:
            raise ValueError("the rollout has no turn that could be resumed; ask for the first with step or request")
        if turn not in self._held.leaves:
            raise ValueError(f"turn {turn.number} was continued by a later turn; only a last turn is resumed")
        if turn.aborted is False and turn.finish_reason != "length":
            raise ValueError(
                f"turn {turn.number} is whole (finish reason {turn.finish_reason!r}, not aborted): "
                "continue with the next messages"
            )
        before = NO_MESSAGES if turn.base is None else turn.base.fingerprint
        mark = fingerprints(turn.said, before)[-1]
        prompt = self._held.grown(turn, turn.end, np.empty(0, np.int32))
        return Plan(prompt, turn, turn.end, turn.base, turn.said, mark, resumes=turn)

    def whole(self, messages: list[Message]) -> Plan:
        """Continue the turn that recorded the longest part of a whole conversation."""
        marks = fingerprints(messages)
        length, candidates = next(
            ((n, found) for n in range(len(marks), 0, -1) if (found := self._held.recorded.get(marks[n - 1]))), (0, [])
        )
        new = messages[length:]
        if not candidates:
            if self._held.head is None:
                return self.added(None, messages)
            return self._again(self._held.head, messages, kind="messages")
        if len(candidates) > 1:
            return self._again(candidates[-1], messages, kind="ambiguous", among=candidates)
        (turn,) = candidates
        if turn is self._held.head or turn in self._held.leaves:
            return self.added(turn, new)
        # Recorded, but the sequence has gone on from there.
        drift = self._drifted("messages", token=turn.end, message=length, why="it went on differently before")
        return self.added(turn, new, drift=drift)

    def added(self, turn: Turn | None, new: list[Message], *, drift: Drift | None = None) -> Plan:
        """The new messages behind a turn's sequence, verbatim if the renderer can."""
        if not new:
            raise ValueError("there is no new message to continue with")
        mark = fingerprints(new, NO_MESSAGES if turn is None else turn.fingerprint)[-1]
        if turn is None:
            first = self._renderer.render(new, tools=self._tools, add_generation_prompt=True)
            prompt = self._held.grown(None, 0, int32(first.token_ids))
            return Plan(prompt, None, 0, None, tuple(new), mark)
        ids = self._handover.added(turn, new)
        if ids is None:
            kind: DriftKind = "unclosed" if turn.finish_reason == "length" else "prefix"
            return self._again(turn, [*tree.conversation(turn), *new], kind=kind, drift=drift, new=new)
        replaces = self._replaced(drift, turn)
        prompt = self._held.grown(turn, turn.end, ids)
        return Plan(prompt, turn, turn.end, turn, tuple(new), mark, drift, replaces)

    def _again(
        self,
        turn: Turn,
        messages: list[Message],
        *,
        kind: DriftKind,
        among: list[Turn] | None = None,
        drift: Drift | None = None,
        new: list[Message] | None = None,
    ) -> Plan:
        """Render the whole conversation, and keep what it shares with the sequence of ``turn``, or one of ``among``."""
        rendered = self._renderer.render(messages, tools=self._tools, add_generation_prompt=True)
        ids = int32(rendered.token_ids)
        held = {candidate: _common(ids, tree.token_ids(candidate)) for candidate in among or [turn]}
        turn = max(held, key=held.__getitem__)
        common = held[turn]
        continues = common == turn.end
        if not continues or among or kind == "messages":
            number = _message_at(rendered, common, turn, len(messages))
            why = f"position {common} holds {_id(tree.token_ids(turn), common)}, rendered it is {_id(ids, common)}"
            drift = self._drifted(kind, token=common, message=number, why=why)
        base, said = (turn, tuple(new)) if new is not None else (None, tuple(messages))
        mark = fingerprints(said, NO_MESSAGES if base is None else base.fingerprint)[-1]
        parent = turn if continues else tree.owner(turn, common)
        replaces = self._replaced(drift, turn)
        prompt = self._held.grown(parent, common, ids[common:])
        return Plan(prompt, parent, common, base, said, mark, drift, replaces)

    def _drifted(self, kind: DriftKind, *, token: int, message: int, why: str) -> Drift:
        """The drift as a fact, which counts when the prompt is answered; or as the error."""
        drift = Drift(kind, token, message, self.on_drift)
        if self.on_drift == "raise":
            self.drifts.append(drift)
            raise DriftError(
                f"the conversation drifts ({kind}) at token {token}, in message {message}: {why}",
                kind=kind,
                token=token,
                message=message,
            )
        return drift

    def _replaced(self, drift: Drift | None, turn: Turn) -> Turn | None:
        """The branch that is replaced."""
        if drift is None or drift.action != "rerender":
            return None
        return turn if turn in self._held.leaves else self._held.head


def _common(one: Int32Array, other: Int32Array) -> int:
    """Tokens that two sequences begin with alike."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _id(ids: Int32Array, position: int) -> str:
    return f"token {ids[position]}" if position < len(ids) else "no token"


def _message_at(rendered: Any, token: int, turn: Turn, count: int) -> int:
    """The message of a token: by the renderer, else the first one of the turn that has the token."""
    indices = getattr(rendered, "message_indices", None)
    if indices is not None and token < len(indices) and indices[token] >= 0:
        return int(indices[token])
    number = 0
    for part in tree.parts(turn):
        if token < part.turn.completion_start:
            return min(number, count - 1)
        number += len(part.turn.said)
        if token < part.turn.end:
            return min(number, count - 1)
        number += 1
    return min(number, count - 1)
