"""A small HTTP/1.1 server on raw asyncio, so that an answer can break off, stall or lie at an exact byte."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import json
import socket
import struct
import termios
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import Fault

__all__ = ["Handler", "Listener", "Request", "Response"]

MAX_HEAD = 64 << 10
MAX_BODY = 256 << 20
# Accepted connections that wait for the loop; thousands may arrive at once.
BACKLOG = 4_096
_REST = "0\r\n\r\n"

Framing: TypeAlias = Literal["length", "chunked", "close"]


class BadRequestError(Exception):
    """The client does not speak HTTP as this server understands it."""


class _GoneError(Exception):
    """The connection is over."""


@dataclass(slots=True)
class Request:
    """One request, read to its end. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


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


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Listener:
    """A listening socket whose requests go to one handler."""

    def __init__(self, handler: Handler, *, on_accept: Callable[[], Fault | None], compress: bool = False) -> None:
        self.handler, self.on_accept, self.compress = handler, on_accept, compress
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; the base URL."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), host, port, backlog=BACKLOG, reuse_address=True
        )
        bound = self._server.sockets[0].getsockname()
        return f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"

    def drop(self) -> None:
        """Drop every connection, and go on listening."""
        for connection in list(self.connections):
            connection.abort()

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


class _Connection(asyncio.Protocol):
    """One client connection: requests one after the other, each cancelled when the client leaves."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._closed = False
        self.task: asyncio.Task[None] | None = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._writable.set()
        self._socket: socket.socket = self._transport.get_extra_info("socket")
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

    def abort(self) -> None:
        """Drop the connection without a farewell."""
        self._transport.abort()

    # --- the conversation ---

    async def _serve(self) -> None:
        try:
            fault = self._listener.on_accept()
            if fault is not None:
                await self._misbehave(fault)
            while await self._exchange():
                pass
        except (_GoneError, asyncio.CancelledError):
            pass
        except BadRequestError as error:
            body = str(error).encode()
            await self._send(Response(400, body, "text/plain", framing="close"), keep_alive=False)
        finally:
            self._transport.close()

    async def _exchange(self) -> bool:
        """One request and its answer; whether the connection stays."""
        request = await self._read_request()
        if request is None:
            return False
        keep_alive = request.headers.get("connection", "").lower() != "close"
        response = await self._listener.handler(request)
        if self._listener.compress and response.body and "gzip" in request.headers.get("accept-encoding", ""):
            response.body = gzip.compress(response.body, compresslevel=1)
            response.headers["content-encoding"] = "gzip"
        return await self._send(response, keep_alive=keep_alive)

    async def _read_request(self) -> Request | None:
        end = await self._find(b"\r\n\r\n", MAX_HEAD)
        if end is None:
            return None
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        try:
            method, target, _ = lines[0].split(" ")
            pairs = [line.split(":", 1) for line in lines[1:]]
            headers = {name.strip().lower(): value.strip() for name, value in pairs}
        except ValueError:
            raise BadRequestError(f"cannot read the head of the request: {lines[0]!r}") from None
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = await self._read_chunks()
        else:
            body = await self._take(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        return Request(method, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)

    async def _find(self, mark: bytes, limit: int) -> int | None:
        """Where the mark begins in the buffer; None if the client leaves before a new request."""
        searched = 0
        while (at := self._buffer.find(mark, searched)) < 0:
            if len(self._buffer) > limit:
                raise BadRequestError(f"no {mark!r} in {limit} bytes")
            searched = max(0, len(self._buffer) - len(mark))
            if self._closed:
                return None
            await self._more()
        return at

    async def _take(self, count: int) -> bytes:
        if count > MAX_BODY:
            raise BadRequestError(f"a body of {count} bytes is more than this server takes ({MAX_BODY})")
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            end = await self._find(b"\r\n", MAX_HEAD)
            if end is None:
                raise _GoneError
            size = int((await self._take(end + 2)).split(b";")[0], 16)
            chunk = await self._take(size + 2)
            if size == 0:
                return bytes(body)
            body += chunk[:-2]
            if len(body) > MAX_BODY:
                raise BadRequestError(f"a body of more than {MAX_BODY} bytes")

    async def _more(self) -> None:
        if self._closed:
            raise _GoneError
        self._arrived.clear()
        await self._arrived.wait()

    # --- the answer ---

    async def _send(self, response: Response, *, keep_alive: bool) -> bool:
        fault = response.fault
        framing = response.framing if fault is None or fault.framing is None else fault.framing
        keep_alive = keep_alive and framing != "close"
        by = fault.by if fault is not None and fault.kind == "length" else 0
        head = _head(response, "length" if by else framing, keep_alive=keep_alive, length=len(response.body) + by)
        before, after = b"", b""
        if framing == "chunked" and not by:
            before, after = (
                (b"%x\r\n" % len(response.body), b"\r\n" + _REST.encode()) if response.body else (b"", _REST.encode())
            )
        sent = 0
        try:
            if fault is None or fault.kind not in _ON_WIRE or (fault.kind, fault.when) == ("stall", "request"):
                self._transport.write(head + before + response.body + after)
                await self._flow()
                sent = len(response.body)
            elif fault.when in ("request", "sampled"):
                await self._misbehave(fault)
                self._transport.write(head + before + response.body + after)
            elif fault.when == "headers":
                cut = fault.position(len(head))
                self._transport.write(head[:cut])
                await self._misbehave(fault)
                self._transport.write(head[cut:] + before + response.body + after)
            else:
                cut = fault.position(len(response.body))
                self._transport.write(head + before + response.body[:cut])
                sent = cut
                if fault.kind == "trickle":
                    for begin in range(cut, len(response.body), fault.chunk):
                        await asyncio.sleep(fault.seconds or 0.0)
                        self._transport.write(response.body[begin : begin + fault.chunk])
                        await self._flow()
                        sent = min(len(response.body), begin + fault.chunk)
                else:
                    await self._misbehave(fault)
                    self._transport.write(response.body[cut:])
                self._transport.write(after)
            await self._flow()
        finally:
            if response.on_sent is not None:
                response.on_sent(sent)
        # A length that lies leaves the connection in no state to go on with.
        return keep_alive and not by and not response.hangs_up

    async def _flow(self) -> None:
        """Wait until the client has taken what was written, but for what the kernel holds."""
        await self._writable.wait()
        if self._closed:
            raise _GoneError

    async def _misbehave(self, fault: Fault) -> None:
        """Break off, or be silent for a while; returns only after a silence that ends."""
        await self._flushed()
        if fault.kind == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            raise _GoneError
        if fault.kind == "truncate":
            raise _GoneError
        if fault.kind == "stall":
            # connection_lost cancels this when the client leaves.
            await (asyncio.sleep(fault.seconds) if fault.seconds is not None else asyncio.Event().wait())

    async def _flushed(self) -> None:
        """Wait until all that was written has reached the client's side, so that a reset cannot swallow it."""
        deadline = time.monotonic() + 5.0
        while not self._closed and time.monotonic() < deadline:
            unsent = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if not self._transport.get_write_buffer_size() and not unsent:
                return
            await asyncio.sleep(0.0005)


_ON_WIRE = frozenset(("reset", "stall", "truncate", "trickle"))


def _head(response: Response, framing: Framing, *, keep_alive: bool, length: int) -> bytes:
    try:
        reason = HTTPStatus(response.status).phrase
    except ValueError:
        reason = "Unknown"
    fields: dict[str, str] = {}
    if response.content_type is not None:
        fields["content-type"] = response.content_type
    if framing == "length":
        fields["content-length"] = str(length)
    elif framing == "chunked":
        fields["transfer-encoding"] = "chunked"
    if not keep_alive:
        fields["connection"] = "close"
    fields |= response.headers
    fields["date"] = formatdate(usegmt=True)
    lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
