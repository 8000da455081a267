"""Answers as server-sent events: the events of one stream, how they are framed, and how far they got."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from .calls import Call, EngineError
from .encode import dumps
from .faults import Fault, FaultKind
from .flight import Delta, Flight
from .http import Close, Pause, Reset, Step

__all__ = ["DONE", "Event", "EventStream"]

DONE = b"[DONE]"


@dataclass(slots=True)
class Event:
    """One event, or a frame of another kind."""

    #: What `data` says; bytes are written as they are. None: nothing but `frame`.
    document: dict[str, Any] | bytes | None
    #: What it brings of a choice.
    delta: Delta | None = None
    #: The end of what the server has to say, or an error.
    ends: bool = False
    failed: bool = False
    #: Its lists hold all tokens so far, not the new ones alone.
    cumulative: bool = False
    #: A server that was asked for sampling masks has the rows of the new tokens in it.
    masks: bool = False
    #: The lines, if they are not those of `document`.
    frame: bytes | None = None

    @property
    def tokens(self) -> int:
        """How many tokens it brings."""
        return 0 if self.delta is None else self.delta.end - self.delta.begin

    @property
    def data(self) -> bytes:
        """What `data` says, as JSON."""
        return self.document if isinstance(self.document, bytes) else dumps(self.document)

    def parsed(self) -> dict[str, Any]:
        """The document as plain JSON values, from now on also in the event."""
        self.document = document = json.loads(self.data)
        return document  # type: ignore[no-any-return]

    def bytes(self) -> bytes:
        """The lines of the event."""
        return self.frame if self.frame is not None else b"data: " + self.data + b"\n\n"


Spoil: TypeAlias = Callable[[AsyncIterator[Event], "EventStream", Fault], AsyncIterator[Event]]
"""What a fault makes of the events of a stream."""

#: Faults that end or delay a body at one of its bytes.
_BREAKS: Mapping[FaultKind, Callable[[Fault], Step]] = {
    "reset": lambda _: Reset(),
    "truncate": lambda _: Close(),
    "stall": lambda fault: Pause(fault.seconds),
    "trickle": lambda fault: Pause(fault.seconds or 0.0),
    "utf8": lambda fault: Pause(fault.seconds or 0.0),
}
_SLOW: frozenset[FaultKind] = frozenset(("trickle", "utf8"))


class EventStream:
    """The body of one streamed answer."""

    def __init__(
        self, call: Call, flight: Flight, events: AsyncIterator[Event], failure: Callable[[EngineError], Event]
    ) -> None:
        self.call, self.flight = call, flight
        #: The error of this server in a stream.
        self.failure = failure
        self.spoil: Spoil | None = None
        self._source = events
        self._at = self._count = 0
        self._acted = False
        self._break = call.fault if call.fault is not None and call.fault.kind in _BREAKS else None
        call.record.tokens_sent = [0] * len(flight.plan)

    async def pieces(self) -> AsyncGenerator[Step]:
        """The bytes of the body, broken off or slowed down where the fault says so."""
        record, fault = self.call.record, self.call.fault
        events = self._events()
        if fault is not None and self.spoil is not None:
            events = self.spoil(events, self, fault)
        if self._break is not None:
            events = await self._placed(events, self._break)
        async for event in events:
            for step in self._steps(event.bytes()):
                yield step
                if isinstance(step, bytes):
                    record.sent += len(step)
            if event.document is not None:
                self._count += 1
                record.events_sent += 1
            if event.delta is not None:
                record.tokens_sent[event.delta.index] += event.tokens
            record.failed |= event.failed
            record.complete |= event.ends
        if self._break is not None and not self._acted:
            yield _BREAKS[self._break.kind](self._break)

    async def _events(self) -> AsyncIterator[Event]:
        """The events of the wire, its error if it fails, and the end."""
        try:
            async for event in self._source:
                yield event
        except EngineError as error:
            yield self.failure(error)
        yield Event(DONE, ends=True)

    async def _placed(self, events: AsyncIterator[Event], fault: Fault) -> AsyncIterator[Event]:
        """Find out where the fault happens. A share, or a place from the end: nothing is sent before all is there."""
        if isinstance(fault.at, int) and fault.at >= 0:
            self._at = fault.at
            return events
        whole = [event async for event in events]
        self._at = fault.position(
            sum(1 if fault.unit == "events" else len(event.bytes()) for event in whole if event.document is not None)
        )
        return _each(whole)

    def _steps(self, data: bytes) -> Iterator[Step]:
        fault = self._break
        if fault is not None and not self._acted:
            # How much of the event comes before it.
            cut = self._at - self.call.record.sent
            if fault.unit == "events":
                cut = 0 if self._count >= self._at else len(data)
            self._acted = cut < len(data)
            if not self._acted:
                yield data
                return
            if cut:
                yield data[:cut]
                data = data[cut:]
            if fault.kind not in _SLOW:
                yield _BREAKS[fault.kind](fault)
        if fault is not None and self._acted and fault.kind in _SLOW:
            for begin in range(0, len(data), fault.chunk):
                yield _BREAKS[fault.kind](fault)
                yield data[begin : begin + fault.chunk]
        else:
            yield data


async def _each(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
