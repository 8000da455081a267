"""aiohttp: large bodies in a fraction of httpx's time. The only file that imports it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from dynamo_tito._config import KEEPALIVE
from dynamo_tito._errors import TransportError, raise_without_cycle
from dynamo_tito._http.sockets import readable

from .base import Exchange, HttpResponse, Receiver, Wiring, check_head, transport_error
from .direct import receive_into

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dynamo_tito._config import Limits
    from dynamo_tito._errors import TransportPhase

# Nothing of the request was written when one of these is raised.
_BEFORE_SENDING = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
_FAILURES = (aiohttp.ClientError, OSError)

# aiohttp pauses the socket at twice this many buffered bytes. A large buffer makes for few, large chunks.
_READ_BUFFER = 4 << 20

_IN_PIECES = 1 << 20


class AiohttpEngine:
    """Over one :class:`aiohttp.ClientSession`: its own, or one that it is given and does not close."""

    def __init__(self, wiring: Wiring, session: aiohttp.ClientSession | None = None) -> None:
        self._wiring = wiring
        self._owned = session is None
        self._session = session
        # The call has a deadline; only connecting has a limit of its own.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=wiring.connect_timeout)

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncHttpEngine`."""
        try:
            async with self._opened(exchange) as response:
                receiver = exchange.receiver(response.status, response.headers, self._wiring.limits)
                await _receive_in_place(response, receiver)
                # Not iter_chunks(): for an answer without a body it ends once per process; later ones loop for ever
                # without yielding to the event loop (aiohttp 3.14.5).
                while not response.content.at_eof():
                    chunk, _ = await response.content.readchunk()
                    if not receiver.feed(chunk):
                        break
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))
        return receiver.finish()

    async def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """See :class:`.base.AsyncStreamingHttpEngine`."""
        try:
            async with self._opened(exchange) as response:
                yield exchange.begin(response.status, response.headers, limits=self._wiring.limits)
                while not response.content.at_eof():
                    yield await response.content.readany()
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))

    async def aclose(self) -> None:
        """See :class:`.base.AsyncHttpEngine`."""
        session, self._session = self._session, None
        if self._owned and session is not None:
            await session.close()

    @contextlib.asynccontextmanager
    async def _opened(self, exchange: Exchange) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose headers are there."""
        if self._session is None:
            self._session = self._open()
        request = exchange.request
        if not self._owned:
            # Without our trace hooks the phase is unknown, so the request counts as sent.
            exchange.phase = "headers"
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=_data(request.content),
            headers=request.headers,
            timeout=self._timeout,
            proxy=self._wiring.proxy if self._owned else None,
            allow_redirects=False,
            auto_decompress=False,
            raise_for_status=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=self._wiring.limits.max_header_bytes,
            max_field_size=self._wiring.limits.max_header_bytes,
            trace_request_ctx=exchange,
        )
        try:
            with _reports_loss(response):
                yield response
        finally:
            # A connection goes back into the pool only if the answer was read to its end.
            response.close() if not response.content.at_eof() else response.release()

    def _open(self) -> aiohttp.ClientSession:
        wiring = self._wiring
        return aiohttp.ClientSession(
            # No limit, so that a request never queues here.
            connector=_Connector(wiring.limits, limit=0, keepalive_timeout=KEEPALIVE, ssl=wiring.tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_phases()],
        )


class _Protocol(ResponseHandler):
    """One connection. It counts the bytes before an answer: aiohttp has no limit for interim answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(loop)
        self._limits = limits
        self._head_bytes: int | None = None
        self._bypassed = False

    def bypass_parser(self) -> None:
        """The rest of the answer is received elsewhere; until the next request any data here is surplus."""
        self._bypassed = True

    def set_response_params(self, **options: Any) -> None:
        """See aiohttp: a request is about to be sent."""
        self._head_bytes = 0
        self._bypassed = False
        super().set_response_params(**options)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """See aiohttp: the headers of an answer are there."""
        if data[0].code >= 200 or data[0].code == 101:
            self._head_bytes = None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """See aiohttp."""
        if self._bypassed and data:
            self.force_close()
            if self.transport is not None:
                self.transport.abort()
            return
        before = self._head_bytes
        super().data_received(data)
        if before is None or self._head_bytes is None:
            return
        self._head_bytes += len(data)
        try:
            check_head(self._head_bytes, self._limits)
        except TransportError as error:
            self._head_bytes = None
            if self.transport is not None:
                self.transport.abort()
            self.set_exception(error)


class _Connector(aiohttp.TCPConnector):
    """Reuses a connection only if it has received nothing while idle.

    aiohttp takes such bytes for the answer to the next request.
    """

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        # The factory of a connection's protocol; aiohttp has no public name for it.
        made = functools.partial(_Protocol, loop=self._loop, limits=limits)
        self._factory = cast("functools.partial[ResponseHandler]", made)
        self._used: weakref.WeakSet[object] = weakref.WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's interface
        """See aiohttp."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                return connection  # aiohttp raises the error
            if protocol not in self._used:
                self._used.add(protocol)
                return connection
            if not protocol.should_close and not readable(transport.get_extra_info("socket")):
                return connection
            connection.close()


def _data(content: bytes) -> bytes | io.BytesIO | None:
    """A large body as a file, which aiohttp writes in pieces; it warns of large bytes."""
    if not content:
        return None
    return io.BytesIO(content) if len(content) >= _IN_PIECES else content


async def _receive_in_place(response: aiohttp.ClientResponse, receiver: Receiver) -> None:
    """Receive the rest of a large body in place, past the parser; other bodies are left to it."""
    connection, content = response.connection, response.content
    protocol = None if connection is None else connection.protocol
    if not isinstance(protocol, _Protocol) or not receiver.plain:
        return
    while parsed := content.read_nowait():
        receiver.feed(parsed)
    transport = protocol.transport
    spare = None if transport is None or transport.is_closing() else receiver.spare()
    if transport is None or spare is None:
        return
    protocol.bypass_parser()
    try:
        received = await receive_into(spare, transport)
    except BaseException:
        # asyncio's error may hold the memory and be part of a cycle.
        with contextlib.suppress(BufferError):
            receiver.filled(spare, 0)
        raise
    receiver.filled(spare, received)
    if receiver.complete:
        # Tells aiohttp that the answer was read and the connection is free.
        content.feed_eof()


@contextlib.contextmanager
def _reports_loss(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Raise in the reader of the body if the connection is lost.

    aiohttp closes it for a malformed chunk and leaves the reader waiting (3.14.5).
    """
    connection = response.connection
    protocol = None if connection is None else connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is None:  # the body is complete
        yield
        return

    def lost(_future: asyncio.Future[None]) -> None:
        content = response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed within the body"))

    # Added once per connection, and kept: it may also break while it is idle.
    closed.remove_done_callback(_retrieve_exception)
    closed.add_done_callback(_retrieve_exception)
    closed.add_done_callback(lost)
    try:
        yield
    finally:
        closed.remove_done_callback(lost)


def _retrieve_exception(future: asyncio.Future[None]) -> None:
    """Retrieve the exception, so that asyncio does not log that it was never retrieved."""
    if not future.cancelled():
        future.exception()


def _phases() -> aiohttp.TraceConfig:
    """Trace hooks that keep the phase of an exchange up to date."""

    def moves_to(phase: TransportPhase) -> Callable[[aiohttp.ClientSession, SimpleNamespace, Any], Awaitable[None]]:
        async def move(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
            context.trace_request_ctx.phase = phase

        return move

    config = aiohttp.TraceConfig()
    # These begin once there is a connection. The headers are sent with the first bytes of the body.
    config.on_connection_reuseconn.append(moves_to("send"))
    config.on_connection_create_end.append(moves_to("send"))
    config.on_request_chunk_sent.append(moves_to("headers"))
    return config
