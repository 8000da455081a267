"""Connections on an event loop, directly on asyncio's transports.

httpcore's own use anyio: a cancel scope around every operation, and pieces of 64 KiB, each of which copies the rest.
Here received bytes are passed on as they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import httpcore

from .watch import TracksSurplusBytes

if TYPE_CHECKING:
    import ssl

    from dynamo_tito._config import Limits

# Reading pauses when this many received bytes have not been read.
_HIGH_WATER = 4 << 20


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """TCP over the running event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        loop = asyncio.get_running_loop()
        local = None if local_address is None else (local_address, 0)
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                made = functools.partial(AsyncioStream, self._limits)
                _, stream = await loop.create_connection(made, host, port, local_addr=local)
        for option in socket_options or ():
            stream.get_extra_info("socket").setsockopt(*option)
        return stream

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await asyncio.sleep(seconds)


class AsyncioStream(TracksSurplusBytes, asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection: the protocol that asyncio feeds, and the stream that httpcore reads."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._transport: asyncio.Transport | None = None
        self._arrived: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # What create_connection makes; uvloop's is no subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._arrived.append(data)
        self._waiting += len(data)
        if self._waiting > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """See asyncio."""
        self._ended = True
        _wake(self._reader)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._ended = True
        self._error = error
        self._transport = None
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """See asyncio."""
        _wake(self._writer)
        self._writer = None

    # httpcore's side

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 - interface
        """What has arrived next, however much; empty at the end."""
        self.will_read()
        with _translated(httpcore.ReadTimeout, httpcore.ReadError):
            async with asyncio.timeout(timeout):
                while not self._arrived and not self._ended:
                    self._reader = asyncio.get_running_loop().create_future()
                    try:
                        await self._reader
                    finally:
                        self._reader = None
            if not self._arrived and self._error is not None:
                raise ConnectionError(str(self._error) or type(self._error).__name__)
        data = self._arrived.popleft() if self._arrived else b""
        self._waiting -= len(data)
        if self._paused and self._waiting <= _HIGH_WATER // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self.saw_read(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - interface
        """Write to the socket; returns when its buffer has room again."""
        with _translated(httpcore.WriteTimeout, httpcore.WriteError):
            if self._transport is None or self._transport.is_closing():
                raise ConnectionError("the connection is closed")
            self.saw_write()
            self._transport.write(buffer)
            if self._writer is not None:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._writer)

    async def aclose(self) -> None:
        """Close at once, and discard what is unsent."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        """The same connection, encrypted from here on."""
        loop = asyncio.get_running_loop()
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            if self._transport is None:
                raise ConnectionError("the connection is closed")
            try:
                async with asyncio.timeout(timeout):
                    self._transport = await loop.start_tls(
                        self._transport, self, ssl_context, server_hostname=server_hostname
                    )
            except BaseException:
                await self.aclose()
                raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        names = {"client_addr": "sockname", "server_addr": "peername"}
        value = None if self._transport is None else self._transport.get_extra_info(names.get(info, info))
        if info == "is_readable":
            connection = None if self._transport is None else self._transport.get_extra_info("socket")
            return bool(self._arrived) or self._ended or self.must_not_reuse(connection)
        return value


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@contextlib.contextmanager
def _translated(late: type[Exception], failed: type[Exception]) -> Any:
    """Raise httpcore's exceptions for the system's."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise failed(str(error) or type(error).__name__) from error
