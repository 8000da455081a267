"""What is noted of one call, and who is told. Nobody is told unless :func:`dynamo_tito.instrument` was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

Operation: TypeAlias = Literal["generate", "score"]


@dataclass(slots=True)
class Sampled:
    """What one completion holds, in numbers.

    Attributes:
        tokens: tokens that were sampled.
        missing: tokens of which the server said that there is no log-probability, read as NaN.
        trimmed: rows of routed experts that were not wanted, by who left them out: ``"client"`` or ``"server"``.
        versions: tokens by the weight version that sampled them.
        first_token: seconds to the first token of a stream; None of other answers.
        finish_reason: why it ended.
        request_id: the server's id of the request.
    """

    tokens: int
    missing: int = 0
    trimmed: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    first_token: float | None = None
    finish_reason: str | None = None
    request_id: str | None = None


@dataclass(slots=True)
class CallRecord:
    """One call of ``generate``, ``stream`` or ``score``.

    Attributes:
        operation: ``"generate"`` (``stream`` too) or ``"score"``.
        provider: whose route was asked: ``"dynamo"``, ``"vllm"``, ``"sglang"`` or ``"prime"``.
        wire: as what the answer is decoded.
        model: the model that was asked for.
        address: the server's host.
        port: the server's port; None for that of the scheme.
        prompt_tokens: tokens of the prompt.
        streamed: whether a stream was asked for.
        statuses: requests that were sent, by the status of the answer; ``"none"`` without one.
        retries: requests that were sent again, by what the one before ended in: a status or ``"TransportError"``.
        sent: bytes of the bodies of requests.
        received: bytes of the bodies of answers, decompressed.
        decode_seconds: seconds spent on decoding, the wait for a thread included.
        seconds: from the call to its end.
        refusal: the kind of the error that decoding ended in; None if the answer was read.
        error: the class of the error that the call ended in, or ``"cancelled"``; None if there was none.
        interrupted: whether the call was broken off after it was sent: by its deadline, its caller or its connection.
        sampled: the completion in numbers; of a call that was interrupted, of what was kept.
        state: the observer's own.
    """

    operation: Operation
    provider: str
    wire: str
    model: str | None
    address: str
    port: int | None
    prompt_tokens: int
    streamed: bool
    statuses: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    decode_seconds: float = 0.0
    seconds: float = 0.0
    refusal: str | None = None
    error: str | None = None
    interrupted: bool = False
    sampled: Sampled | None = None
    state: Any = None


class Observer(Protocol):
    """Who is told of calls. None of the methods may raise."""

    def began(self, call: CallRecord) -> Mapping[str, str]:
        """A call begins. The headers are added to its requests."""

    def ended(self, call: CallRecord) -> None:
        """A call ended, in whatever way."""

    def kept(self, call: CallRecord) -> None:
        """After :meth:`ended`: the caller gets what came of an interrupted call, which is in ``call.sampled``."""

    def resumed(self) -> None:
        """A rollout asks for the rest of a turn that was cut."""


observer: Observer | None = None
"""Read once for each call; None costs a call nothing else."""
