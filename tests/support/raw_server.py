"""A server that answers with given bytes, and records the bytes that it receives."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from dynamo_tito.simulator.http import Answer as Sent
from dynamo_tito.simulator.http import Close, Listener, Pause, Request, Reset, Step, head, in_thread

__all__ = [
    "Answer", "Close", "Early", "Endlessly", "Pause", "RawServer", "Received", "Reset", "Script", "Stall", "Until",
    "chunked", "head", "reply",
]  # fmt: skip

_LIMIT = 20.0
"""Seconds that a test waits for the server."""

Stall = Pause
"""Without seconds: write nothing more until the client leaves."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; ``path`` is what the request line says."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Until:
    """Write nothing before this holds."""

    condition: Callable[[], bool]

    def __iter__(self) -> Iterator[Step]:
        while not self.condition():
            yield Pause(0.002)


@dataclass(frozen=True, slots=True)
class Endlessly:
    """Write the same until the client leaves, as fast as it takes it, or with a pause before each piece."""

    piece: bytes
    pause: float = 0.0

    def __iter__(self) -> Iterator[Step]:
        while True:
            yield self.piece
            yield Pause(self.pause)


Answer: TypeAlias = Sequence[Step | Until | Endlessly]


@dataclass(frozen=True, slots=True)
class Early:
    """Played before the request has been read: not a byte of it, or its headers only. That is no hit."""

    answer: Answer
    after_headers: bool = False


Script: TypeAlias = Answer | Early | Callable[[Received], Answer]


def reply(
    status: int = 200,
    body: bytes | dict[str, Any] = b"",
    *,
    headers: dict[str, str] | None = None,
    length: int | None = None,
    content_type: str = "application/json",
) -> list[Step]:
    """An answer with a Content-Length, true or not."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": content_type, "content-length": str(len(content) if length is None else length)}
    return [head(status, {**fields, **(headers or {})}) + content]


def chunked(status: int, chunks: Sequence[bytes], *, end: bool = True, headers: dict[str, str] | None = None) -> Answer:
    """An answer in chunks, with or without its end."""
    fields = {"content-type": "application/json", "transfer-encoding": "chunked", **(headers or {})}
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return [head(status, fields) + body + (b"0\r\n\r\n" if end else b"")]


@dataclass
class RawServer:
    """Plays ``script``: one answer per POST, the last one for ever. ``models`` answers ``GET /v1/models``."""

    script: list[Script] = field(default_factory=list)
    models: Script = field(default_factory=lambda: reply(404, {"error": "no models here"}))
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    lookups: list[Received] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    left_early: int = 0
    """How many clients closed their connection before they had their answer."""
    busy: int = 0
    """How many requests it is answering."""
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._queue: deque[Script] = deque(self.script)
        self._changed = threading.Condition()
        self._listener = _Listener(self)
        self._stack = ExitStack()

    @property
    def hits(self) -> int:
        """How many requests reached an engine: every POST that arrived whole."""
        return len(self.requests)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def drop_connections(self) -> None:
        """End every connection (FIN) that is open now."""

        def close() -> None:
            for connection in self._listener.connections:
                connection.transport.close()

        self._loop.call_soon_threadsafe(close)

    def play(self, *script: Script) -> None:
        """Answer like this from now on."""
        self._queue = deque(script)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Block until ``condition`` holds."""
        with self._changed:
            assert self._changed.wait_for(condition, _LIMIT), "the server waited in vain"

    def __enter__(self) -> Self:
        run = self._stack.enter_context(in_thread("raw-server"))
        self.url = run(self._start())
        self._stack.callback(lambda: run(self._listener.stop()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def _start(self) -> str:
        self._loop = asyncio.get_running_loop()
        return await self._listener.start("127.0.0.1", 0, self.tls)

    def count(self, **changes: int) -> None:
        """Change counters, and wake who waits for them."""
        with self._changed:
            for name, by in changes.items():
                setattr(self, name, getattr(self, name) + by)
            self.most_at_once = max(self.most_at_once, self.busy)
            self._changed.notify_all()

    def next(self) -> Script:
        return self._queue.popleft() if len(self._queue) > 1 else self._queue[0]

    def early(self, *, headers: bool) -> Answer | None:
        """The answer, if the next one comes before the request has been read."""
        script = self._queue[0] if self._queue else None
        if not isinstance(script, Early) or script.after_headers is not headers:
            return None
        self.next()
        return script.answer


class _Listener(Listener):
    def __init__(self, server: RawServer) -> None:
        super().__init__()
        self._script = server

    def accepted(self) -> Iterable[Step]:
        self._script.count(connections=1, open_connections=1)
        return ()

    def lost(self) -> None:
        self._script.count(open_connections=-1)

    def early(self, *, headers: bool) -> Iterable[Step] | None:
        answer = self._script.early(headers=headers)
        return None if answer is None else _flat(answer)

    async def answer(self, request: Request) -> Sent:
        server = self._script
        received = Received(request.method, request.target, request.headers, request.body)
        (server.lookups if received.method == "GET" else server.requests).append(received)
        script = server.models if received.method == "GET" else server.next()
        assert not isinstance(script, Early), "a request came before its time"
        server.count(busy=1)
        answer = script(received) if callable(script) else script
        return Sent(_flat(answer), on_over=lambda _, left: server.count(busy=-1, left_early=left))


def _flat(answer: Answer) -> Iterator[Step]:
    for step in answer:
        if isinstance(step, Until | Endlessly):
            yield from step
        else:
            yield step
