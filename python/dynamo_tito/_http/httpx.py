"""httpx, asynchronous and blocking: over a client of our own, or one of the caller's. httpx2 has the same interface.

A body is streamed into place; ``.content`` copies it. What a connection does is the library's: see
``docs/reliability.md`` for what it does not promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from dynamo_tito._config import KEEPALIVE
from dynamo_tito._errors import TransportError, raise_without_cycle

from .base import Exchange, HttpResponse, Wiring, transport_error
from .environment import tls_context

if TYPE_CHECKING:
    import httpx

    from dynamo_tito._errors import TransportPhase

# The documented events of the extension "trace". Before the first of them it connects.
_PHASES: dict[str, TransportPhase] = {
    "http11.send_request_headers.started": "send",
    "http2.send_request_headers.started": "send",
    "http11.receive_response_headers.started": "headers",
    "http2.receive_response_headers.started": "headers",
}


class AsyncHttpxEngine:
    """On an event loop: a client of its own, or the ``AsyncClient`` that it is given and does not close."""

    def __init__(self, wiring: Wiring, client: httpx.AsyncClient | None = None) -> None:
        self._wiring = wiring
        self._owned = client is None
        self._client = importlib.import_module("httpx").AsyncClient(**_options(wiring)) if client is None else client
        self._failures, self._before_sending = errors_of(_library_of(self._client))

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncHttpEngine`."""
        try:
            async with self._opened(exchange) as response:
                receiver = exchange.receiver(response.status_code, headers_of(response), self._wiring.limits)
                async for chunk in _async_chunks(response):
                    if not receiver.feed(chunk):
                        break
        except self._failures as error:
            raise_without_cycle(transport_error(error, exchange, self._before_sending, self._wiring))
        return receiver.finish()

    async def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """See :class:`.base.AsyncStreamingHttpEngine`."""
        try:
            async with self._opened(exchange) as response:
                yield exchange.begin(response.status_code, headers_of(response), limits=self._wiring.limits)
                async for chunk in _async_chunks(response):
                    yield chunk
        except self._failures as error:
            raise_without_cycle(transport_error(error, exchange, self._before_sending, self._wiring))

    async def aclose(self) -> None:
        """See :class:`.base.AsyncHttpEngine`."""
        if self._owned:
            await self._client.aclose()

    @contextlib.asynccontextmanager
    async def _opened(self, exchange: Exchange) -> AsyncIterator[httpx.Response]:
        response = await self._respond(exchange)
        try:
            yield response
        finally:
            await _closed(response.aclose())

    async def _respond(self, exchange: Exchange) -> httpx.Response:
        """An answer whose headers are there."""

        async def trace(event: str, _info: Mapping[str, Any]) -> None:
            exchange.phase = _PHASES.get(event, exchange.phase)

        asked = _asked(exchange, trace, timeouts(self._wiring, None))
        request = self._client.build_request(exchange.request.method, exchange.request.url, **asked)
        return await self._client.send(request, stream=True, follow_redirects=False)


class HttpxEngine:
    """On the calling thread: a client of its own, or the ``Client`` that it is given and does not close.

    The deadline is checked between two reads, and each read waits at most as long as the call had at its beginning.
    """

    def __init__(self, wiring: Wiring, client: httpx.Client | None = None) -> None:
        self._wiring = wiring
        self._owned = client is None
        self._client = importlib.import_module("httpx").Client(**_options(wiring)) if client is None else client
        self._failures, self._before_sending = errors_of(_library_of(self._client))

    def send(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.HttpEngine`."""
        try:
            with contextlib.closing(self._respond(exchange)) as response:
                receiver = exchange.receiver(response.status_code, headers_of(response), self._wiring.limits)
                for chunk in _chunks(response):
                    if not receiver.feed(chunk):
                        break
                    _check_deadline(exchange)
        except self._failures as error:
            raise_without_cycle(transport_error(error, exchange, self._before_sending, self._wiring))
        return receiver.finish()

    def stream(self, exchange: Exchange) -> Generator[bytes, None, None]:
        """See :class:`.base.StreamingHttpEngine`."""
        try:
            with contextlib.closing(self._respond(exchange)) as response:
                yield exchange.begin(response.status_code, headers_of(response), limits=self._wiring.limits)
                for chunk in _chunks(response):
                    yield chunk
                    _check_deadline(exchange)
        except self._failures as error:
            raise_without_cycle(transport_error(error, exchange, self._before_sending, self._wiring))

    def close(self) -> None:
        """See :class:`.base.HttpEngine`."""
        if self._owned:
            self._client.close()

    def _respond(self, exchange: Exchange) -> httpx.Response:
        """An answer whose headers are there."""

        def trace(event: str, _info: Mapping[str, Any]) -> None:
            exchange.phase = _PHASES.get(event, exchange.phase)

        asked = _asked(exchange, trace, timeouts(self._wiring, exchange.deadline))
        request = self._client.build_request(exchange.request.method, exchange.request.url, **asked)
        return self._client.send(request, stream=True, follow_redirects=False)


def errors_of(library: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """What httpx or httpx2 raises, and which of it before anything was written."""
    before = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
    return (library.HTTPError, library.InvalidURL, OSError), tuple(getattr(library, name) for name in before)


def headers_of(response: httpx.Response) -> dict[str, str]:
    """The headers of the body that :func:`_chunks` gives."""
    headers = dict(response.headers.items())
    if response.is_stream_consumed:
        # The caller's client has read and decompressed the body; there is nothing to check.
        for name in ("content-encoding", "content-length"):
            headers.pop(name, None)
    return headers


def timeouts(wiring: Wiring, ends: float | None) -> dict[str, float | None]:
    """Seconds of each operation, in the words of the extension "timeout" and of ``Timeout``."""
    left = None if ends is None else max(ends - time.monotonic(), 0.001)
    connect = wiring.connect_timeout if left is None else min(wiring.connect_timeout, left)
    return {"connect": connect, "read": left, "write": left, "pool": left}


def _library_of(client: object) -> Any:
    """The library whose client it is; the class may be derived from the library's."""
    names = (kind.__module__.partition(".")[0] for kind in type(client).__mro__)
    return importlib.import_module(next(name for name in names if name in ("httpx", "httpx2")))


def _options(wiring: Wiring) -> dict[str, Any]:
    library, tls = importlib.import_module("httpx"), tls_context(wiring.trust)
    return {
        "verify": tls,
        "proxy": None if wiring.proxy is None else library.Proxy(wiring.proxy, ssl_context=tls),
        # No limit, so that a request never queues here.
        "limits": library.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE),
        "trust_env": False,
    }


def _asked(exchange: Exchange, trace: Callable[..., Any], timeout: dict[str, float | None]) -> dict[str, Any]:
    return {
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in exchange.request.headers.items()],
        "content": exchange.request.content or None,
        "extensions": {"trace": trace, "timeout": timeout},
    }


def _chunks(response: httpx.Response) -> Iterator[bytes]:
    return iter((response.content,)) if response.is_stream_consumed else response.iter_raw()


async def _async_chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    if response.is_stream_consumed:
        yield response.content
        return
    async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as chunks:
        async for chunk in chunks:
            yield chunk


def _check_deadline(exchange: Exchange) -> None:
    if exchange.deadline is not None and time.monotonic() > exchange.deadline:
        raise TransportError("the deadline is over", phase=exchange.phase)


async def _closed(closing: Coroutine[Any, Any, None]) -> None:
    """Close, even if the task is cancelled meanwhile: a half-closed connection counts as busy."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
