"""A server that answers with exactly the bytes it is told to, and remembers exactly what reached it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self, TypeAlias

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Pause:
    """Write nothing for a while."""

    seconds: float


class Stall:
    """Write nothing more until the client leaves."""


class Reset:
    """Abort the connection (RST)."""


class Close:
    """End the connection (FIN)."""


@dataclass(frozen=True, slots=True)
class Until:
    """Write nothing before this holds."""

    condition: Callable[[], bool]


class Endlessly:
    """Write the same until the client leaves, as fast as it takes it, or with a pause before each piece."""

    def __init__(self, piece: bytes, pause: float = 0.0) -> None:
        self.piece = piece
        self.pause = pause


Step: TypeAlias = bytes | Pause | Until | Stall | Endlessly | Reset | Close
Answer: TypeAlias = Sequence[Step]


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


def head(status: int, headers: dict[str, str]) -> bytes:
    """Status line and headers."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Whatever"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


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
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._busy = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._queue: deque[Script] = deque(self.script)
        self._loop = asyncio.new_event_loop()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def hits(self) -> int:
        """How many requests reached an engine: every POST that arrived whole."""
        return len(self.requests)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def drop_connections(self) -> None:
        """End every connection (FIN) that is open now."""

        def close() -> None:
            for writer in self._writers:
                writer.close()

        self._loop.call_soon_threadsafe(close)

    @property
    def busy(self) -> int:
        """How many requests it is answering."""
        return self._busy

    def play(self, *script: Script) -> None:
        """Answer like this from now on."""
        self._queue = deque(script)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Block until ``condition`` holds."""
        with self._changed:
            assert self._changed.wait_for(condition, _PATIENCE), "the server waited in vain"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self.tls, backlog=4096)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for _ in range(3):
            await asyncio.sleep(0)  # what was accepted becomes a connection, which can be closed
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._note(connections=1, open_connections=1)
        self._writers.add(writer)
        number = self.connections
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            try:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()  # only then does the client hear of it
            finally:
                self._note(open_connections=-1)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        # Until something has come there is no request to be early for.
        first = await reader.read(1)
        if not first:
            return False
        early = self._queue[0] if self._queue else None
        if isinstance(early, Early):
            if early.after_headers:
                await reader.readuntil(b"\r\n\r\n")
            self._next()
            return await self._play(early.answer, reader, writer)
        request = await _read(first, reader, number)
        if request is None:
            return False
        if request.method == "GET":
            self.lookups.append(request)
            script = self.models
        else:
            self.requests.append(request)
            script = self._next()
        self._busy += 1
        self.most_at_once = max(self.most_at_once, self._busy)
        self._note()
        assert not isinstance(script, Early), "a request came before its time"
        answer = script(request) if callable(script) else script
        try:
            return await self._play(answer, reader, writer)
        finally:
            self._busy -= 1
            self._note()

    def _next(self) -> Script:
        return self._queue.popleft() if len(self._queue) > 1 else self._queue[0]

    async def _play(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for step in answer:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, Until):
                async with asyncio.timeout(_PATIENCE):
                    while not step.condition():  # noqa: ASYNC110 - anything may be asked
                        await asyncio.sleep(0.002)
            elif isinstance(step, Endlessly):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await _repeat(step, reader, writer)
                self._note(left_early=1)
                return False
            elif isinstance(step, Close):
                return False
            elif isinstance(step, Reset):
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            elif await _leaves(reader, step.seconds if isinstance(step, Pause) else _PATIENCE):
                self._note(left_early=1)
                return False
        return True

    def _note(self, *, connections: int = 0, open_connections: int = 0, left_early: int = 0) -> None:
        with self._changed:
            self.connections += connections
            self.open_connections += open_connections
            self.left_early += left_early
            self._changed.notify_all()


async def _read(first: bytes, reader: asyncio.StreamReader, number: int) -> Received | None:
    try:
        raw = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = raw.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, number)


async def _repeat(step: Endlessly, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(step.piece)
            await writer.drain()
            await asyncio.sleep(step.pause)


async def _leaves(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the client closes its end within that time."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
