"""httpx, asynchronous and blocking. The only file that imports it, and httpcore underneath.

Three properties of httpx shape what is here. A pool searches all its connections on every request and answer, so there
are many small ones. ``.content`` joins and copies, so bodies are streamed. And a blocking read's timeout starts anew
with every read, so blocking connections get a network backend that knows the deadline.
"""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpcore
import httpx

from dynamo_tito._config import KEEPALIVE, POOL_SIZE

from .base import Exchange, HttpResponse, Receiver, Wiring, failure_of

if TYPE_CHECKING:
    import ssl

    from dynamo_tito._errors import TransportPhase

_Client = TypeVar("_Client", bound="httpx.Client | httpx.AsyncClient")

# httpcore reports these while it works; what it does before the first of them is connecting.
_PHASES: dict[str, TransportPhase] = {
    "http11.send_request_headers.started": "send",
    "http2.send_request_headers.started": "send",
    "http11.receive_response_headers.started": "headers",
    "http2.receive_response_headers.started": "headers",
    "http11.receive_response_body.started": "body",
    "http2.receive_response_body.started": "body",
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

_LIMITS = httpx.Limits(max_connections=POOL_SIZE, max_keepalive_connections=POOL_SIZE, keepalive_expiry=KEEPALIVE)
_WRITE_STEP = 1 << 16

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("dynamo_tito_deadline", default=None)


class AsyncHttpxTransport:
    """Over :class:`httpx.AsyncClient`: pools of its own, or the one client that it is given and does not close."""

    def __init__(self, wiring: Wiring, client: httpx.AsyncClient | None = None) -> None:
        self._pools = _Pools(wiring, lambda: _async_client(wiring), client)

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncTransport`."""

        async def trace(event: str, _info: Mapping[str, Any]) -> None:
            _advance(exchange, event)

        pools = self._pools
        client = pools.take()
        try:
            request = pools.request(client, exchange, trace, pools.timeout)
            response = await client.send(request, stream=True, follow_redirects=False)
            exchange.phase = "body"
            try:
                receiver = _receiver(response, exchange, pools.wiring)
                if response.is_stream_consumed:
                    receiver.feed(response.content)
                else:
                    async for chunk in response.aiter_raw():
                        if not receiver.feed(chunk):
                            break
            finally:
                await response.aclose()
        except _FAILURES as error:
            failure = failure_of(error, exchange, _BEFORE_SENDING)
        else:
            return receiver.finish()
        finally:
            pools.give_back(client)
        raise failure

    async def aclose(self) -> None:
        """See :class:`.base.AsyncTransport`."""
        for client in self._pools.owned():
            await client.aclose()


class HttpxTransport:
    """Over :class:`httpx.Client`: pools of its own, or the one client that it is given and does not close.

    With a client of the caller's the deadline is looked at between two reads, and each read waits that long at most.
    """

    def __init__(self, wiring: Wiring, client: httpx.Client | None = None) -> None:
        self._pools = _Pools(wiring, lambda: _blocking_client(wiring), client)

    def send(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.SyncTransport`."""

        def trace(event: str, _info: Mapping[str, Any]) -> None:
            _advance(exchange, event)

        pools = self._pools
        client = pools.take()
        token = _deadline.set(exchange.deadline)
        try:
            timeout = _timeout(pools.wiring, exchange.deadline)
            request = pools.request(client, exchange, trace, timeout)
            response = client.send(request, stream=True, follow_redirects=False)
            exchange.phase = "body"
            try:
                receiver = _receiver(response, exchange, pools.wiring)
                if response.is_stream_consumed:
                    receiver.feed(response.content)
                else:
                    for chunk in response.iter_raw():
                        if not receiver.feed(chunk):
                            break
                        _remaining(None, httpcore.ReadTimeout)
            finally:
                response.close()
        except _FAILURES as error:
            failure = failure_of(error, exchange, _BEFORE_SENDING)
        else:
            return receiver.finish()
        finally:
            _deadline.reset(token)
            pools.give_back(client)
        raise failure

    def close(self) -> None:
        """See :class:`.base.SyncTransport`."""
        for client in self._pools.owned():
            client.close()


class _Pools(Generic[_Client]):
    """Which client carries the next request.

    Each client is handed out once per connection that it may open, so that a request never queues inside one; the one
    used last is used first, because its connections are open.
    """

    def __init__(self, wiring: Wiring, make: Callable[[], _Client], given: _Client | None) -> None:
        self.wiring = wiring
        self.timeout = _timeout(wiring, None)
        self._make = make
        self._given = given
        self._owned: list[_Client] = []
        self._free: list[_Client] = []
        self._growing = threading.Lock()

    def take(self) -> _Client:
        """A client with a connection to spare."""
        if self._given is not None:
            return self._given
        try:
            return self._free.pop()
        except IndexError:
            client = self._make()
            with self._growing:
                self._owned.append(client)
            self._free.extend([client] * (POOL_SIZE - 1))
            return client

    def give_back(self, client: _Client) -> None:
        """Its connection is free again, or closed."""
        if self._given is None:
            self._free.append(client)

    def request(
        self, client: _Client, exchange: Exchange, trace: Callable[..., Any], timeout: httpx.Timeout
    ) -> httpx.Request:
        """The request in httpx's terms. A client of the caller's adds what it was set up to add."""
        request = exchange.request
        url, headers, content = _url(request.url), dict(request.headers), request.content or None
        extensions = {"trace": trace, "timeout": timeout.as_dict()}
        make = httpx.Request if self._given is None else client.build_request
        return make(request.method, url, headers=headers, content=content, extensions=extensions)

    def owned(self) -> list[_Client]:
        """The clients to close; they are forgotten."""
        with self._growing:
            owned, self._owned, self._free = self._owned, [], []
        return owned


class _DeadlineTransport(httpx.BaseTransport):
    """httpcore's blocking pool under httpx, over connections that know the deadline."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        content = request.stream
        if not isinstance(content, httpx.SyncByteStream):
            raise TypeError("a blocking client sends blocking streams")
        response = self._pool.handle_request(
            httpcore.Request(
                request.method, url, headers=request.headers.raw, content=content, extensions=request.extensions
            )
        )
        if not isinstance(response.stream, Iterable):
            raise TypeError("a blocking pool answers with blocking streams")
        stream = _Stream(response)
        return httpx.Response(response.status, headers=response.headers, stream=stream, extensions=response.extensions)

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _DeadlineBackend(httpcore.NetworkBackend):
    """httpcore's blocking sockets, no operation of which outlasts the deadline of the call."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = _remaining(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._backend.connect_tcp(host, port, left, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_STEP):
            step = buffer[start : start + _WRITE_STEP]
            self._stream.write(step, _remaining(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _remaining(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _remaining(timeout: float | None, expired: type[httpcore.TimeoutException]) -> float | None:
    """The seconds one operation may take: its own timeout, and no more than the call has left."""
    deadline = _deadline.get()
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise expired("the deadline is over")
    return left if timeout is None else min(timeout, left)


def _async_client(wiring: Wiring) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=wiring.tls, proxy=wiring.proxy, trust_env=False, limits=_LIMITS)


def _blocking_client(wiring: Wiring) -> httpx.Client:
    proxy = None if wiring.proxy is None else httpx.Proxy(wiring.proxy)
    pool = httpcore.ConnectionPool(
        ssl_context=wiring.tls,
        proxy=None
        if proxy is None
        else httpcore.Proxy(
            httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
            ),
            auth=proxy.raw_auth,
        ),
        max_connections=POOL_SIZE,
        max_keepalive_connections=POOL_SIZE,
        keepalive_expiry=KEEPALIVE,
        network_backend=_DeadlineBackend(),
    )
    return httpx.Client(transport=_DeadlineTransport(pool), trust_env=False)


def _timeout(wiring: Wiring, deadline: float | None) -> httpx.Timeout:
    left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
    connect = wiring.connect_timeout if left is None else min(wiring.connect_timeout, left)
    return httpx.Timeout(left, connect=connect)


@functools.lru_cache(maxsize=64)
def _url(url: str) -> httpx.URL:
    """Parsed once: a client has a handful of addresses."""
    return httpx.URL(url)


def _receiver(response: httpx.Response, exchange: Exchange, wiring: Wiring) -> Receiver:
    headers = dict(response.headers.items())
    if response.is_stream_consumed:
        # A client of the caller's has read it already, and undone the encoding; nothing is left to be checked.
        for name in ("content-encoding", "content-length"):
            headers.pop(name, None)
    return Receiver(response.status_code, headers, exchange=exchange, limits=wiring.limits)


def _advance(exchange: Exchange, event: str) -> None:
    phase = _PHASES.get(event)
    if phase is not None:
        exchange.phase = phase
