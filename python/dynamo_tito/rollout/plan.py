"""What is planned: the next prompt and its place in the tree, and where a conversation drifted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from dynamo_tito._types import Completion, Int32Array

    from .messages import Message
    from .tree import Turn

OnDrift: TypeAlias = Literal["branch", "rerender", "raise"]
"""What to do where a conversation cannot continue token by token: keep what is held as a branch of its own and go on
from what is shared, replace what is held, or raise a :class:`dynamo_tito.DriftError`."""

DriftKind: TypeAlias = Literal["prefix", "unclosed", "messages", "ambiguous"]


@dataclass(frozen=True, slots=True)
class Drift:
    """A place where the conversation did not go on from what was held.

    Attributes:
        kind: as of :class:`dynamo_tito.DriftError`.
        token: position of the first token that differs.
        message: number of the message that it belongs to, from 0.
        action: what was done.
    """

    kind: DriftKind
    token: int
    message: int
    action: OnDrift


@dataclass(frozen=True, slots=True)
class Plan:
    """The next prompt, and how its answer changes the tree.

    Attributes:
        ids: the whole prompt.
        parent: the turn whose sequence it continues, ``start`` tokens of it.
        base, said, fingerprint: as of the turn that it becomes; ``fingerprint`` is that before its message.
        drift: the drift that counts when the prompt is answered.
        replaces: the branch that then makes way.
        resumes: the turn that the answer continues and whose place the joined turn takes; it is then ``parent`` too.
        asked: the keywords with which the whole turn is asked for.
        cut: what a call that failed brought of the answer.
    """

    ids: Int32Array
    parent: Turn | None
    start: int
    base: Turn | None
    said: tuple[Message, ...]
    fingerprint: bytes
    drift: Drift | None = None
    replaces: Turn | None = None
    resumes: Turn | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    cut: Completion | None = None
