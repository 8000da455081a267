"""aiohttp: the same bodies in a fraction of httpx's time. The only file that imports it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from dynamo_tito._config import KEEPALIVE
from dynamo_tito._errors import TransportError
from dynamo_tito._http.sockets import readable

from .base import Exchange, HttpResponse, Receiver, Wiring, check_head, failure_of
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

# aiohttp stops reading from the socket at twice this many buffered bytes. A large one takes a body in few, large steps.
_READ_BUFFER = 4 << 20

_IN_PIECES = 1 << 20


class AiohttpTransport:
    """Over one :class:`aiohttp.ClientSession`: its own, or one that it is given and does not close."""

    def __init__(self, wiring: Wiring, session: aiohttp.ClientSession | None = None) -> None:
        self._wiring = wiring
        self._owned = session is None
        self._session = session
        # A connection's own time only: the whole call has one deadline, and a sampling server is silent for minutes.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=wiring.connect_timeout)

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncTransport`."""
        if self._session is None:
            self._session = self._open()
        request = exchange.request
        if not self._owned:
            # Of a session without our hooks the phases are not known; the careful guess is that it was sent.
            exchange.phase = "headers"
        response = None
        try:
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
            exchange.phase = "body"
            headers = {name.lower(): value for name, value in response.headers.items()}
            receiver = Receiver(response.status, headers, exchange=exchange, limits=self._wiring.limits)
            with _told_of_loss(response):
                await _past_the_parser(response, receiver)
                # Not iter_chunks(): of an answer without a body it ends only the first time that anybody in the process
                # asks, and from then on yields nothing for ever, without letting the loop go on (seen in 3.14.5).
                while not response.content.at_eof():
                    chunk, _ = await response.content.readchunk()
                    if not receiver.feed(chunk):
                        break
        except _FAILURES as error:
            failure = failure_of(error, exchange, _BEFORE_SENDING, self._wiring)
        else:
            return receiver.finish()
        finally:
            if response is not None:
                # Back into the pool if it was read to its end, closed if not.
                response.close() if not response.content.at_eof() else response.release()
        raise failure

    async def aclose(self) -> None:
        """See :class:`.base.AsyncTransport`."""
        session, self._session = self._session, None
        if self._owned and session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        wiring = self._wiring
        return aiohttp.ClientSession(
            # As many connections as the caller will use: a request never queues in here.
            connector=_Connector(wiring.limits, limit=0, keepalive_timeout=KEEPALIVE, ssl=wiring.tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_phases()],
        )


class _Protocol(ResponseHandler):
    """One connection, which counts the bytes before an answer: aiohttp takes interim answers without end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(loop)
        self._limits = limits
        self._heard: int | None = None
        self._passed = False

    def pass_parser(self) -> None:
        """The answer does not come this way from here on: until the next request the parser waits for it in vain."""
        self._passed = True

    def set_response_params(self, **options: Any) -> None:
        """See aiohttp: a request is about to be sent."""
        self._heard = 0
        self._passed = False
        super().set_response_params(**options)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """See aiohttp: the headers of an answer are there."""
        if data[0].code >= 200 or data[0].code == 101:
            self._heard = None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """See aiohttp."""
        if self._passed and data:  # an answer to no request
            self.force_close()
            if self.transport is not None:
                self.transport.abort()
            return
        before = self._heard
        super().data_received(data)
        if before is None or self._heard is None:
            return
        self._heard += len(data)
        try:
            check_head(self._heard, self._limits)
        except TransportError as error:
            self._heard = None
            if self.transport is not None:
                self.transport.abort()
            self.set_exception(error)


class _Connector(aiohttp.TCPConnector):
    """Connections that are used again only if they have nothing to say.

    aiohttp takes what an idle connection has received for the answer to the next request, whoever that is from.
    """

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        # What makes the protocol of a new connection; nothing public says it.
        made = functools.partial(_Protocol, loop=self._loop, limits=limits)
        self._factory = cast("functools.partial[ResponseHandler]", made)
        self._used: weakref.WeakSet[object] = weakref.WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's interface
        """See aiohttp."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                return connection  # aiohttp will say why
            if protocol not in self._used:
                self._used.add(protocol)
                return connection
            if not protocol.should_close and not readable(transport.get_extra_info("socket")):
                return connection
            connection.close()


def _data(content: bytes) -> bytes | io.BytesIO | None:
    """A large body as a file, which is written in pieces; aiohttp warns of large bytes."""
    if not content:
        return None
    return io.BytesIO(content) if len(content) >= _IN_PIECES else content


async def _past_the_parser(response: aiohttp.ClientResponse, receiver: Receiver) -> None:
    """Receive the rest of a large body in place. What cannot be had this way is left to the parser."""
    connection, content = response.connection, response.content
    protocol = None if connection is None else connection.protocol
    if not isinstance(protocol, _Protocol) or not receiver.plain:
        return
    while parsed := content.read_nowait():
        receiver.feed(parsed)
    transport = protocol.transport
    room = None if transport is None or transport.is_closing() else receiver.room()
    if transport is None or room is None:
        return
    protocol.pass_parser()
    try:
        received = await receive_into(room, transport)
    except BaseException:
        # asyncio's error may hold it, and lie in a cycle.
        with contextlib.suppress(BufferError):
            receiver.filled(room, 0)
        raise
    receiver.filled(room, received)
    if receiver.complete:
        # From here on aiohttp takes the answer for read, and the connection for free.
        content.feed_eof()


@contextlib.contextmanager
def _told_of_loss(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Let a reader of the body know that the connection is gone.

    aiohttp closes it when a chunk is malformed, and leaves the reader waiting (seen in 3.14.5).
    """
    connection = response.connection
    protocol = None if connection is None else connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is None:  # the whole body has come already
        yield
        return

    def lost(_future: asyncio.Future[None]) -> None:
        content = response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed within the body"))

    # Once, however often the connection is used; and for good, because it may also break while it is idle.
    closed.remove_done_callback(_looked_at)
    closed.add_done_callback(_looked_at)
    closed.add_done_callback(lost)
    try:
        yield
    finally:
        closed.remove_done_callback(lost)


def _looked_at(future: asyncio.Future[None]) -> None:
    """Look at what a future holds, so that asyncio does not complain that nobody did."""
    if not future.cancelled():
        future.exception()


def _phases() -> aiohttp.TraceConfig:
    """Hooks that keep the phase of an exchange up to date."""

    def moves_to(phase: TransportPhase) -> Callable[[aiohttp.ClientSession, SimpleNamespace, Any], Awaitable[None]]:
        async def move(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
            context.trace_request_ctx.phase = phase

        return move

    config = aiohttp.TraceConfig()
    # The connection is there when these begin; headers leave with the first bytes of the body.
    config.on_connection_reuseconn.append(moves_to("send"))
    config.on_connection_create_end.append(moves_to("send"))
    config.on_request_chunk_sent.append(moves_to("headers"))
    return config
