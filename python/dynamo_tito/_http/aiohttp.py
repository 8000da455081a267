"""aiohttp: over a session of the caller's."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp
from yarl import URL

from dynamo_tito._errors import raise_without_cycle

from .base import Exchange, HttpResponse, Wiring, transport_error

# Nothing of the request was written when one of these is raised.
_BEFORE_SENDING = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
_FAILURES = (aiohttp.ClientError, OSError)

# The socket is paused at twice this many buffered bytes. A large buffer makes for few, large chunks.
_READ_BUFFER = 4 << 20

_IN_PIECES = 1 << 20


class AiohttpEngine:
    """Over an :class:`aiohttp.ClientSession`, which it does not close."""

    def __init__(self, wiring: Wiring, session: aiohttp.ClientSession) -> None:
        self._wiring = wiring
        self._session = session
        # The call has a deadline; only connecting has a limit of its own.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=wiring.connect_timeout)

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncHttpEngine`."""
        try:
            async with self._opened(exchange) as response:
                receiver = exchange.receiver(response.status, response.headers, self._wiring.limits)
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
        """The session is the caller's."""

    @contextlib.asynccontextmanager
    async def _opened(self, exchange: Exchange) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose headers are there."""
        request = exchange.request
        exchange.phase = "headers"  # how far it got is not told, so the request counts as sent
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=_data(request.content),
            headers=request.headers,
            timeout=self._timeout,
            allow_redirects=False,
            auto_decompress=False,
            raise_for_status=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=self._wiring.limits.max_header_bytes,
            max_field_size=self._wiring.limits.max_header_bytes,
        )
        try:
            yield response
        finally:
            # A connection goes back into the pool only if the answer was read to its end.
            response.close() if not response.content.at_eof() else response.release()


def _data(content: bytes) -> bytes | io.BytesIO | None:
    """A large body as a file, which is written in pieces; there is a warning for large bytes."""
    if not content:
        return None
    return io.BytesIO(content) if len(content) >= _IN_PIECES else content
