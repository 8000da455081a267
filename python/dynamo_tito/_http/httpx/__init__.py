"""httpx, asynchronous and blocking. The only package that imports it and httpcore, its engine.

Without a client of the caller's, httpcore's pools are used directly, with connections of our own, for four reasons:

- a pool looks at all its connections for every request, so there are many small pools;
- the timeout of a blocking read starts anew with every read;
- httpcore's asynchronous connections copy a body several times;
- httpcore does not notice bytes that arrive before a request.

A client of the caller's is used as it is. Bodies are streamed; ``.content`` copies them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpcore
import httpx

from dynamo_tito._config import KEEPALIVE, POOL_SIZE
from dynamo_tito._errors import TransportError, raise_without_cycle
from dynamo_tito._http.base import Exchange, HttpResponse, Receiver, Wiring, transport_error

from .blocking import BlockingBackend, remaining, until
from .streaming import AsyncioBackend
from .watch import TracksSurplusBytes

if TYPE_CHECKING:
    from dynamo_tito._errors import TransportPhase

_Pool = TypeVar("_Pool")
_Chunks = TypeVar("_Chunks", bound="AsyncIterator[bytes] | Iterator[bytes]")

# h11's limit of a head, which httpcore cannot change.
_MAX_HEAD = 100 * 1024

# httpcore's trace events. Before the first of them it connects.
_PHASES: dict[str, TransportPhase] = {
    "http11.send_request_headers.started": "send",
    "http2.send_request_headers.started": "send",
    "http11.receive_response_headers.started": "headers",
    "http2.receive_response_headers.started": "headers",
}

# Nothing of the request itself was written when one of these is raised.
_BEFORE_SENDING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.PoolTimeout,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
_FAILURES = (
    httpx.HTTPError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    OSError,
)


class AsyncHttpxEngine:
    """On an event loop: pools of its own, or the ``httpx.AsyncClient`` that it is given and does not close."""

    def __init__(self, wiring: Wiring, client: httpx.AsyncClient | None = None) -> None:
        _check_wiring(wiring)
        self._wiring = wiring
        self._client = client
        self._pools = _Pools(
            lambda: httpcore.AsyncConnectionPool(**_pool_options(wiring), network_backend=AsyncioBackend(wiring.limits))
        )

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`dynamo_tito._http.base.AsyncHttpEngine`."""
        try:
            async with self._opened(exchange) as answer:
                receiver = answer.receiver(exchange, self._wiring)
                async for chunk in answer.chunks:
                    if not receiver.feed(chunk):
                        break
                    answer.note_end(chunk, receiver)
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))
        return receiver.finish()

    async def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """See :class:`dynamo_tito._http.base.AsyncStreamingHttpEngine`."""
        try:
            async with self._opened(exchange) as answer:
                yield answer.begin(exchange, self._wiring)
                async for chunk in answer.chunks:
                    yield chunk
                    answer.note_end(chunk, exchange.incoming)
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))

    async def aclose(self) -> None:
        """See :class:`dynamo_tito._http.base.AsyncHttpEngine`."""
        for pool in self._pools.owned():
            await pool.aclose()

    @contextlib.asynccontextmanager
    async def _opened(self, exchange: Exchange) -> AsyncIterator[_Answer[AsyncIterator[bytes]]]:
        async def trace(event: str, _info: Mapping[str, Any]) -> None:
            exchange.phase = _PHASES.get(event, exchange.phase)

        asked = _shared_arguments(exchange, trace, _timeout(self._wiring, None))
        if self._client is None:
            with self._pools.one() as pool:
                core = await pool.handle_async_request(_core_request(exchange, asked))
                try:
                    yield _of_core(core, core.aiter_stream())
                finally:
                    await _closed(core.aclose())
            return
        response = await self._client.send(_request(self._client, exchange, asked), stream=True, follow_redirects=False)
        try:
            yield _of_httpx(response, _read_body(response) if response.is_stream_consumed else response.aiter_raw())
        finally:
            await _closed(response.aclose())


class HttpxEngine:
    """On the calling thread: pools of its own, or the ``httpx.Client`` that it is given and does not close.

    With a client of the caller's the deadline is checked between two reads, and each read waits until it at most.
    """

    def __init__(self, wiring: Wiring, client: httpx.Client | None = None) -> None:
        _check_wiring(wiring)
        self._wiring = wiring
        self._client = client
        self._pools = _Pools(
            lambda: httpcore.ConnectionPool(**_pool_options(wiring), network_backend=BlockingBackend(wiring.limits))
        )

    def send(self, exchange: Exchange) -> HttpResponse:
        """See :class:`dynamo_tito._http.base.HttpEngine`."""
        try:
            with until(exchange.deadline), self._opened(exchange) as answer:
                receiver = answer.receiver(exchange, self._wiring)
                for chunk in answer.chunks:
                    if not receiver.feed(chunk):
                        break
                    answer.note_end(chunk, receiver)
                    remaining(None, httpcore.ReadTimeout)
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))
        return receiver.finish()

    def stream(self, exchange: Exchange) -> Generator[bytes, None, None]:
        """See :class:`dynamo_tito._http.base.StreamingHttpEngine`."""
        try:
            with contextlib.ExitStack() as stack:
                # Between two chunks the thread may be at another call.
                with until(exchange.deadline):
                    answer = stack.enter_context(self._opened(exchange))
                yield answer.begin(exchange, self._wiring)
                while True:
                    with until(exchange.deadline):
                        remaining(None, httpcore.ReadTimeout)
                        chunk = next(answer.chunks, None)
                    if chunk is None:
                        return
                    yield chunk
                    answer.note_end(chunk, exchange.incoming)
        except _FAILURES as error:
            raise_without_cycle(transport_error(error, exchange, _BEFORE_SENDING, self._wiring))

    def close(self) -> None:
        """See :class:`dynamo_tito._http.base.HttpEngine`."""
        for pool in self._pools.owned():
            pool.close()

    @contextlib.contextmanager
    def _opened(self, exchange: Exchange) -> Iterator[_Answer[Iterator[bytes]]]:
        def trace(event: str, _info: Mapping[str, Any]) -> None:
            exchange.phase = _PHASES.get(event, exchange.phase)

        asked = _shared_arguments(exchange, trace, _timeout(self._wiring, exchange.deadline))
        if self._client is None:
            with self._pools.one() as pool:
                core = pool.handle_request(_core_request(exchange, asked))
                try:
                    yield _of_core(core, iter(core.iter_stream()))
                finally:
                    core.close()
            return
        response = self._client.send(_request(self._client, exchange, asked), stream=True, follow_redirects=False)
        try:
            yield _of_httpx(response, iter((response.content,)) if response.is_stream_consumed else response.iter_raw())
        finally:
            response.close()


@dataclass(slots=True)
class _Answer(Generic[_Chunks]):
    """An answer whose headers are there, of httpcore or of httpx."""

    status: int
    headers: dict[str, str]
    chunks: _Chunks
    stream: object

    def receiver(self, exchange: Exchange, wiring: Wiring) -> Receiver:
        """What takes the body; TransportError for an answer that came before its request."""
        self._check_head(exchange)
        return exchange.receiver(self.status, self.headers, wiring.limits)

    def begin(self, exchange: Exchange, wiring: Wiring) -> bytes:
        """As :meth:`receiver`, of a stream."""
        self._check_head(exchange)
        return exchange.begin(self.status, self.headers, limits=wiring.limits)

    def _check_head(self, exchange: Exchange) -> None:
        if isinstance(self.stream, TracksSurplusBytes):
            if self.stream.unsolicited:
                raise TransportError("the connection held an answer before the request was sent", phase=exchange.phase)
            self.stream.saw_head()

    def note_end(self, chunk: bytes, receiver: Receiver | None) -> None:
        """Note whether bytes of the connection follow the end of the body."""
        if receiver is not None and receiver.complete and isinstance(self.stream, TracksSurplusBytes):
            self.stream.ends_with(chunk)


class _Pools(Generic[_Pool]):
    """Chooses the pool of the next request.

    Each pool is handed out once per connection that it may open, so that a request never queues inside one. The one
    used last comes first, because its connections are open.
    """

    def __init__(self, make: Callable[[], _Pool]) -> None:
        self._make = make
        self._owned: list[_Pool] = []
        self._free: list[_Pool] = []
        self._growing = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[_Pool]:
        """A pool with a free connection."""
        try:
            pool = self._free.pop()
        except IndexError:
            pool = self._make()
            with self._growing:
                self._owned.append(pool)
            self._free.extend([pool] * (POOL_SIZE - 1))
        try:
            yield pool
        finally:
            self._free.append(pool)

    def owned(self) -> list[_Pool]:
        """The pools to close; they are forgotten."""
        with self._growing:
            owned, self._owned, self._free = self._owned, [], []
        return owned


def _check_wiring(wiring: Wiring) -> None:
    if wiring.limits.max_header_bytes > _MAX_HEAD:
        raise ValueError(
            f"httpx takes at most {_MAX_HEAD} bytes of headers (max_header_bytes); http='aiohttp' takes more"
        )


def _pool_options(wiring: Wiring) -> dict[str, Any]:
    return {
        "ssl_context": wiring.tls,
        "proxy": None if wiring.proxy is None else _proxy(wiring.proxy),
        "max_connections": POOL_SIZE,
        "max_keepalive_connections": POOL_SIZE,
        "keepalive_expiry": KEEPALIVE,
    }


def _proxy(url: str) -> httpcore.Proxy:
    proxy = httpx.Proxy(url)  # takes the credentials out of the URL
    return httpcore.Proxy(_core_url(str(proxy.url)), auth=proxy.raw_auth)


def _timeout(wiring: Wiring, ends: float | None) -> httpx.Timeout:
    left = None if ends is None else max(ends - time.monotonic(), 0.001)
    connect = wiring.connect_timeout if left is None else min(wiring.connect_timeout, left)
    return httpx.Timeout(left, connect=connect)


def _shared_arguments(exchange: Exchange, trace: Callable[..., Any], timeout: httpx.Timeout) -> dict[str, Any]:
    """The arguments of a request that httpcore and httpx share."""
    return {
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in exchange.request.headers.items()],
        "content": exchange.request.content or None,
        "extensions": {"trace": trace, "timeout": timeout.as_dict()},
    }


def _core_request(exchange: Exchange, asked: dict[str, Any]) -> httpcore.Request:
    """The request with what httpx would add to it."""
    request = exchange.request
    headers = [(b"host", urlsplit(request.url).netloc.encode()), *asked["headers"]]
    if request.content or request.method != "GET":
        headers.append((b"content-length", b"%d" % len(request.content)))
    return httpcore.Request(request.method, _core_url(request.url), **{**asked, "headers": headers})


def _request(client: httpx.Client | httpx.AsyncClient, exchange: Exchange, asked: dict[str, Any]) -> httpx.Request:
    """The request with what a client of the caller's adds to it."""
    return client.build_request(exchange.request.method, exchange.request.url, **asked)


def _of_core(core: httpcore.Response, chunks: _Chunks) -> _Answer[_Chunks]:
    headers: dict[str, str] = {}
    for name, value in core.headers:
        _add(headers, name.decode("latin-1").lower(), value.decode("latin-1"))
    return _Answer(core.status, headers, chunks, core.extensions.get("network_stream"))


def _of_httpx(response: httpx.Response, chunks: _Chunks) -> _Answer[_Chunks]:
    headers = dict(response.headers.items())
    if response.is_stream_consumed:
        # The caller's client has read and decoded the body; there is nothing to check.
        for name in ("content-encoding", "content-length"):
            headers.pop(name, None)
    return _Answer(response.status_code, headers, chunks, None)


async def _closed(closing: Coroutine[Any, Any, None]) -> None:
    """Close, even if the task is cancelled meanwhile: httpcore counts a half-closed connection as busy."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _read_body(response: httpx.Response) -> AsyncIterator[bytes]:
    yield response.content


def _add(headers: dict[str, str], name: str, value: str) -> None:
    headers[name] = f"{headers[name]}, {value}" if name in headers else value


@functools.lru_cache(maxsize=64)
def _core_url(url: str) -> httpcore.URL:
    """Parsed once per address."""
    return httpcore.URL(url)
