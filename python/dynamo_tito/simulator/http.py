"""An HTTP/1.1 server that breaks off, stalls or sends wrong bytes anywhere: h11 reads, an answer is a list of steps."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

__all__ = ["Answer", "Close", "Listener", "Pause", "Request", "Reset", "Step", "head", "in_thread"]

MAX_HEAD = 64 << 10
MAX_BODY = 256 << 20
# Accepted connections that wait for the loop; thousands may arrive at once.
BACKLOG = 4_096
_PIECE = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """Write nothing for some seconds; None: until the client leaves."""

    seconds: float | None = None


class Reset:
    """Reset the connection (RST) once the client's side has what was written."""


class Close:
    """End the connection (FIN)."""


Step: TypeAlias = bytes | Pause | Reset | Close
"""Bytes are written as they are."""


@dataclass(slots=True)
class Request:
    """One request, read to its end. Header names are in lower case; ``target`` is that of the request line."""

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Answer:
    """What is written in answer to one request.

    Attributes:
        steps: the bytes, with pauses between them. Those that come one by one are asked for when the one before has
            been written, and closed when the answer is over.
        keep_alive: whether the connection takes another request.
        on_over: called when the answer is over, with the bytes that were written and whether the client left before.
    """

    steps: Iterable[Step] | AsyncGenerator[Step]
    keep_alive: bool = True
    on_over: Callable[[int, bool], None] | None = None


class _GoneError(Exception):
    """The connection is over."""


class Listener:
    """A listening socket. Subclasses answer."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def answer(self, request: Request) -> Answer:
        """The answer to a request; cancelled when the client leaves."""
        raise NotImplementedError

    def accepted(self) -> Iterable[Step]:
        """Called with each new connection; what is played before anything is read."""
        return ()

    def early(self, *, headers: bool) -> Iterable[Step] | None:  # noqa: ARG002 - for subclasses
        """What is played, before the connection ends, when the first bytes (or the headers) of a request are there."""
        return None

    def lost(self) -> None:
        """Called when a connection has been closed."""

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> str:
        """Listen; the base URL."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=BACKLOG, reuse_address=True, ssl=tls
        )
        bound = self._server.sockets[0].getsockname()
        address = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"{'https' if tls else 'http'}://{address}:{bound[1]}"

    def drop(self) -> None:
        """Drop every connection, and go on listening."""
        for connection in list(self.connections):
            connection.dropped = True
            connection.transport.abort()

    async def stop(self) -> None:
        """Stop listening, drop the connections and wait for what they were doing."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for _ in range(3):
                await asyncio.sleep(0)  # what was accepted becomes a connection, which can be closed
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        self.drop()
        await asyncio.gather(*tasks, return_exceptions=True)


class Connection(asyncio.Protocol):
    """One client connection: requests one after the other, each cancelled when the client leaves."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._closed = False
        #: The server ended it.
        self.dropped = False
        self.task: asyncio.Task[None] | None = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._writable.set()
        self._socket: socket.socket = self.transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener.connections.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol says so
        self._closed = True
        self._listener.connections.discard(self)
        self._arrived.set()
        self._writable.set()
        if self.task is not None:
            self.task.cancel()
        asyncio.get_running_loop().call_soon(self._listener.lost)  # the socket is closed right after this

    # --- the conversation ---

    async def _serve(self) -> None:
        try:
            await self._play(self._listener.accepted())
            while await self._exchange():
                pass
        except (_GoneError, asyncio.CancelledError):
            pass
        except h11.RemoteProtocolError as error:
            fields = {"content-type": "text/plain", "connection": "close"}
            self.transport.write(head(400, fields) + str(error).encode())
        finally:
            self.transport.close()

    async def _exchange(self) -> bool:
        """One request and its answer; whether the connection stays."""
        request = await self._read_request()
        answer = await self._listener.answer(request)
        await self._play(answer.steps, answer.on_over)
        return answer.keep_alive

    async def _read_request(self) -> Request:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self._more())
                if request is None:
                    await self._early(headers=False)
            elif isinstance(event, h11.Request):
                request = event
                await self._early(headers=True)
                if parser.they_are_waiting_for_100_continue:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise h11.RemoteProtocolError(f"a body of more than {MAX_BODY} bytes")
            elif request is not None and isinstance(event, h11.EndOfMessage):
                break
        self._buffer[:0] = parser.trailing_data[0]
        target = request.target.decode("latin-1")
        parts = urlsplit(target)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        query = dict(parse_qsl(parts.query))
        return Request(request.method.decode(), target, unquote(parts.path), query, headers, bytes(body))

    async def _early(self, *, headers: bool) -> None:
        steps = self._listener.early(headers=headers)
        if steps is not None:
            await self._play(steps)
            raise _GoneError

    async def _more(self) -> bytes:
        while not self._buffer:
            if self._closed:
                raise _GoneError
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def _play(
        self, steps: Iterable[Step] | AsyncGenerator[Step], on_over: Callable[[int, bool], None] | None = None
    ) -> None:
        """Take each step in turn. Raises _GoneError where one ends the connection, or the client left."""
        written = 0
        try:
            if isinstance(steps, AsyncGenerator):
                async with aclosing(steps):
                    async for step in steps:
                        written += await self._take(step)
            else:
                for step in steps:
                    written += await self._take(step)
        finally:
            if on_over is not None:
                on_over(written, self._closed and not self.dropped)

    async def _take(self, step: Step) -> int:
        """Take one step; the bytes that it wrote."""
        if isinstance(step, bytes):
            # asyncio moves what it could not send yet with every write, so it gets no more than a piece.
            for begin in range(0, len(step), _PIECE):
                self.transport.write(step[begin : begin + _PIECE])
                await self._writable.wait()
                if self._closed:
                    raise _GoneError
            return len(step)
        if isinstance(step, Pause):
            # connection_lost cancels this when the client leaves.
            await (asyncio.Event().wait() if step.seconds is None else asyncio.sleep(step.seconds))
            return 0
        if isinstance(step, Reset):
            await self._flushed()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        raise _GoneError

    async def _flushed(self) -> None:
        """Wait until all that was written has reached the client's side, so that a reset cannot swallow it."""
        deadline = time.monotonic() + 5.0
        while not self._closed and time.monotonic() < deadline:
            unsent = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if not self.transport.get_write_buffer_size() and not unsent:
                return
            await asyncio.sleep(0.0005)


def head(status: int, fields: Mapping[str, str]) -> bytes:
    """Status line and headers."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@contextmanager
def in_thread(name: str) -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """An event loop in a thread: a function that runs a coroutine there, and waits for its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def finish() -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}  # such as handshakes that never ended
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        # On its own loop: one that is closed from a coroutine cannot be run in this thread.
        await loop.shutdown_default_executor()

    try:
        yield run
    finally:
        asyncio.run_coroutine_threadsafe(finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
