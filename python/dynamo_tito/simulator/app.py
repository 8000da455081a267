"""What the servers of all wires share: routes, error envelopes, answers."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from .calls import Call, EngineError
from .core import Core
from .encode import dumps
from .flight import Flight
from .response import Framing, Response
from .stream import DONE, Event, EventStream
from .stream_faults import spoiled

__all__ = ["App", "Route"]

Route: TypeAlias = Callable[[Call], Awaitable[Response]]


class App:
    """The routes of one listener, and the envelope of its errors."""

    framing: ClassVar[Framing] = "length"
    events_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    events_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, engine: Core) -> None:
        self.engine = engine
        self._routes: dict[str, dict[str, Route]] = {}
        self.add_routes()

    def add_routes(self) -> None:
        """Called once: `self.route("POST", path, handler)` for each."""
        raise NotImplementedError

    def failure(self, call: Call, error: EngineError) -> Response:
        """An engine error in this server's envelope."""
        raise NotImplementedError

    def no_route(self, call: Call) -> Response:
        """The answer for a path that this server does not have."""
        return self.failure(call, EngineError(404, "Not Found"))

    def wrong_method(self, allowed: Sequence[str]) -> Response:
        """The answer for a method that the path does not take."""
        return Response(405, b"", None, {"allow": ",".join(allowed)}, self.framing)

    def finish(self, call: Call, response: Response) -> None:
        """Add what every answer of this server carries, errors too."""

    @property
    def not_ready(self) -> str:
        """The message of a server that has not sampled, so that the request may be sent again."""
        return "Service is not ready"

    def route(self, methods: str, path: str, handler: Route) -> None:
        """Answer `methods` (one, or several with spaces between) on `path`."""
        for method in methods.split():
            self._routes.setdefault(path, {})[method] = handler

    def find(self, path: str) -> dict[str, Route] | None:
        """The handlers of a path, by method."""
        return self._routes.get(path)

    async def handle(self, call: Call) -> Response:
        """Answer a request."""
        found = self.find(call.request.path)
        if found is None:
            return self.no_route(call)
        handler = found.get(call.request.method)
        return await handler(call) if handler is not None else self.wrong_method(sorted(found))

    def reply(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """A JSON answer."""
        return Response(status, dumps(value), headers=dict(headers or {}), framing=self.framing)

    def streamed(self, call: Call, flight: Flight, events: AsyncIterator[Event]) -> Response:
        """An answer as server-sent events, which lets the flight land."""
        stream = EventStream(call, flight, events, lambda error: Event(self.stream_error(call, error), failed=True))
        stream.spoil = spoiled
        fault = call.fault_of("content_type")
        return Response(
            200,
            content_type=self.events_type if fault is None else fault.message or "application/json",
            headers=dict(self.events_headers),
            framing="chunked",
            stream=stream.pieces(),
            on_over=lambda _count, _left: flight.land(),
            on_drop=flight.complete,
        )

    def stream_error(self, call: Call, error: EngineError) -> dict[str, Any] | bytes:
        """An engine error as the data of an event."""
        raise NotImplementedError

    def failed_stream(self, call: Call, error: EngineError) -> Response:
        """A stream that fails before its first chunk."""
        call.record.failed = True
        events = (Event(self.stream_error(call, error)), Event(DONE))
        body = b"".join(event.bytes() for event in events)
        return Response(200, body, self.events_type, dict(self.events_headers), framing="chunked")

    def uuid(self, call: Call) -> str:
        """An id for an answer: the same in every run."""
        digest = hashlib.blake2b(f"{self.engine.config.seed}:{call.record.number}".encode(), digest_size=16).digest()
        return str(UUID(bytes=digest, version=4))
