"""One answer of the embedded engine: its framing, and the faults while it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
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
    #: The body of a stream, piece by piece.
    stream: AsyncGenerator[Step] | None = None
    #: Called when the answer is over, however it ended: the number of body bytes that left (0 of a stream, which counts
    #: by itself), and whether the client left before.
    on_over: Callable[[int, bool], None] | None = None
    #: Called when a stream is not sent at all.
    on_drop: Callable[[], None] | None = None

    def drop(self) -> None:
        """Send another answer than this one."""
        if self.on_drop is not None:
            self.on_drop()


def answer_of(response: Response, *, keep_alive: bool) -> Answer:
    """The steps that send a response, with its fault at its byte."""
    if response.stream is not None:
        return _streamed(response, response.stream, keep_alive=keep_alive)
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

    def on_over(written: int, left: bool) -> None:  # noqa: FBT001 - as `Answer.on_over` says
        if response.on_over is not None:
            response.on_over(max(0, min(len(body), written - offset)), left)

    # After a wrong length the connection is not used again.
    return Answer(steps, keep_alive and not by and not response.hangs_up, on_over)


def _streamed(response: Response, body: AsyncGenerator[Step], *, keep_alive: bool) -> Answer:
    """A body whose length is not known: in chunks, or until the connection ends."""
    fault = response.fault
    framing: Framing = "close" if fault is not None and fault.framing == "close" else "chunked"
    keep_alive = keep_alive and framing == "chunked"
    start = _head(response, framing, keep_alive=keep_alive, length=0)

    async def steps() -> AsyncGenerator[Step]:
        async with aclosing(body):
            if fault is not None and fault.kind in _ACTIONS and fault.when in ("sampled", "headers"):
                cut = fault.position(len(start)) if fault.when == "headers" else 0
                for step in (start[:cut], *_ACTIONS[fault.kind](fault, start[cut:], b"")):
                    yield step
            else:
                yield start
            async for piece in body:
                yield (
                    b"%x\r\n%b\r\n" % (len(piece), piece)
                    if framing == "chunked" and isinstance(piece, bytes)
                    else piece
                )
            if framing == "chunked":
                yield b"0\r\n\r\n"

    def on_over(_written: int, left: bool) -> None:  # noqa: FBT001 - as `Answer.on_over` says
        if response.on_over is not None:
            response.on_over(0, left)

    return Answer(steps(), keep_alive, on_over)


def on_accept(fault: Fault | None) -> Iterable[Step]:
    """The fault of a new connection before its first request."""
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
