"""What a rollout holds: the turns of its tree, the current one, and the current sequence in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import tree
from .ids import GrowingIds

if TYPE_CHECKING:
    from dynamo_tito._types import Int32Array

    from .planning import Plan
    from .tree import Turn


class Held:
    """The state of a rollout.

    Attributes:
        head: the turn that the next one continues; None before the first.
        leaves: the last turn of every branch, in the order in which the branches got it.
        recorded: turns by the fingerprint of the conversation up to and including their message.
        ids: the current sequence.
    """

    def __init__(self) -> None:
        self.head: Turn | None = None
        self.leaves: dict[Turn, None] = {}
        self.recorded: dict[bytes, list[Turn]] = {}
        self.ids = GrowingIds()

    def knows(self, turn: Turn) -> bool:
        """Whether the turn is one of the rollout's."""
        return any(turn is known for known in self.recorded.get(turn.fingerprint, ()))

    def grown(self, turn: Turn | None, end: int, added: Int32Array) -> Int32Array:
        """The first ``end`` tokens of a sequence, and what is added to them."""
        if turn is self.head and (turn is None or end == turn.end):
            return self.ids.extended(end, added)
        prompt = np.concatenate([tree.token_ids(turn, end), added])
        prompt.flags.writeable = False
        return prompt

    def commit(self, turn: Turn, plan: Plan) -> None:
        """Take the turn that answers a plan."""
        if plan.resumes is not None:
            self._forget(plan.resumes)
        elif plan.parent is not None and plan.start == plan.parent.end:
            self.leaves.pop(plan.parent, None)
        if plan.replaces is not None:
            self.leaves.pop(plan.replaces, None)
        self.leaves[turn] = None
        self.recorded.setdefault(turn.fingerprint, []).append(turn)
        self.ids.adopt(plan.ids, turn.token_ids[len(plan.ids) - turn.completion_start :])
        self.head = turn

    def move(self, turn: Turn | None) -> None:
        """Continue from another turn; None starts anew."""
        self.ids.adopt(tree.token_ids(turn), np.empty(0, np.int32))
        self.head = turn

    def _forget(self, turn: Turn) -> None:
        """A turn whose place the resumed one takes."""
        self.leaves.pop(turn, None)
        known = self.recorded.get(turn.fingerprint, [])
        known[:] = [other for other in known if other is not turn]
        if not known:
            self.recorded.pop(turn.fingerprint, None)
