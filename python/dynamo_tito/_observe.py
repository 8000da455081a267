"""Who is told of calls. Nobody is unless :func:`dynamo_tito.instrument` was called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from ._native import CallRecord

Operation: TypeAlias = Literal["generate", "score"]


class Target(NamedTuple):
    """What calls of one kind have in common.

    Attributes:
        operation: ``"generate"`` (``stream`` too) or ``"score"``.
        provider: whose route is asked: ``"dynamo"``, ``"vllm"``, ``"sglang"`` or ``"prime"``.
        wire: as what the answers are decoded.
        model: the model that is asked for.
        address: the server's host.
        port: the server's port; None for that of the scheme.
    """

    operation: Operation
    provider: str
    wire: str
    model: str | None
    address: str
    port: int | None


class CallKind(Protocol):
    """The calls of one target."""

    def begin(self, prompt_tokens: int, /) -> CallRecord:
        """A call begins; what notes its steps."""


class Observer(Protocol):
    """Who is told of calls. None of the methods may raise."""

    def kind(self, target: Target) -> CallKind:
        """The calls of this target."""

    def resumed(self) -> None:
        """A rollout asks for the rest of a turn that was cut."""


observer: Observer | None = None
"""Read once for each call; None costs a call nothing else."""
