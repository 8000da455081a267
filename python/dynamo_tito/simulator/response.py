"""One answer of the embedded engine: how it is framed, and what goes wrong while it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Literal, TypeAlias

from .faults import Fault, FaultKind
from .http import Answer, Close, Pause, Reset, Step, head

__all__ = ["Framing", "Response", "answer_of", "on_accept"]

Framing: TypeAlias = Literal["length", "chunked", "close"]


@dataclass(slots=True)
class Response:
    """One answer, and what is to go wrong while it is sent."""

    status: int
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    framing: Framing = "length"
    #: The connection ends after this answer, which does not say so (uvicorn, after an exception that nothing handles).
    hangs_up: bool = False
    fault: Fault | None = None
    #: Called with the number of body bytes that left, when the answer is over, however it ended.
    on_sent: Callable[[int], None] | None = None


def answer_of(response: Response, *, keep_alive: bool) -> Answer:
    """The steps that send a response, with its fault at its byte."""
    fault, body = response.fault, response.body
    by = fault.by if fault is not None and fault.kind == "length" else 0
    framing = "length" if by else (fault.framing if fault is not None else None) or response.framing
    keep_alive = keep_alive and framing != "close"
    start = _head(response, framing, keep_alive=keep_alive, length=len(body) + by)
    opening, closing = b"", b""
    if framing == "chunked":
        opening, closing = (b"%x\r\n" % len(body), b"\r\n0\r\n\r\n") if body else (b"", b"0\r\n\r\n")
    offset = len(start) + len(opening)
    data = start + opening + body
    steps: list[Step] = [data + closing]
    # During a stall in phase "request" the engine itself was silent.
    if fault is not None and fault.kind in _ACTIONS and not fault.happens("stall", "request"):
        cuts = {"headers": fault.position(len(start)), "body": offset + fault.position(len(body))}
        cut = cuts.get(fault.when, 0)
        steps = [data[:cut], *_ACTIONS[fault.kind](fault, data[cut:], closing)]

    def on_over(written: int, _left: bool) -> None:  # noqa: FBT001 - as `Answer.on_over` says
        if response.on_sent is not None:
            response.on_sent(max(0, min(len(body), written - offset)))

    # A length that lies leaves the connection in no state to go on with.
    return Answer(steps, keep_alive and not by and not response.hangs_up, on_over)


def on_accept(fault: Fault | None) -> Iterable[Step]:
    """What a new connection meets before its first request."""
    return () if fault is None else _ACTIONS[fault.kind](fault, b"", b"")


def _trickled(fault: Fault, rest: bytes, closing: bytes) -> Iterable[Step]:
    for begin in range(0, len(rest), fault.chunk):
        yield Pause(fault.seconds or 0.0)
        yield rest[begin : begin + fault.chunk]
    yield closing


#: What a fault does at its byte, given what is still to be sent and the end of the framing.
_ACTIONS: Mapping[FaultKind, Callable[[Fault, bytes, bytes], Iterable[Step]]] = {
    "reset": lambda *_: (Reset(),),
    "truncate": lambda *_: (Close(),),
    "stall": lambda fault, rest, closing: (Pause(fault.seconds), rest + closing),
    "trickle": _trickled,
}


def _head(response: Response, framing: Framing, *, keep_alive: bool, length: int) -> bytes:
    fields: dict[str, str] = {}
    if response.content_type is not None:
        fields["content-type"] = response.content_type
    if framing == "length":
        fields["content-length"] = str(length)
    elif framing == "chunked":
        fields["transfer-encoding"] = "chunked"
    if not keep_alive:
        fields["connection"] = "close"
    return head(response.status, {**fields, **response.headers, "date": formatdate(usegmt=True)})
