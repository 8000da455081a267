"""The engine of the compiled core: a body is received where it will be decoded, on a thread without Python."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import ssl
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dynamo_tito._config import KEEPALIVE
from dynamo_tito._errors import TransportError, raise_without_cycle
from dynamo_tito._native import NativeCall, NativeEngine, NativeMailbox

from .base import Exchange, HttpResponse, Wiring
from .loops import without_closed

if TYPE_CHECKING:
    from dynamo_tito._native import Body

_INFLATED_STEP = 1 << 20
_SIGNALS = 0.1
"""Seconds after which a wait of the main thread looks whether it was interrupted."""
_LONG = 1e6


class AsyncNativeEngine:
    """On any number of event loops."""

    any_loop = True

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._engine = _open(wiring)
        self._boxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Box] = weakref.WeakKeyDictionary()
        self._closed = False
        # Held while these change: loops of several threads share the engine.
        self._lock = threading.Lock()

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.AsyncHttpEngine`."""
        loop = asyncio.get_running_loop()
        box = self._box(loop)
        number = box.number(loop)
        ended = box.expect(loop, number)
        call = None
        try:
            call = _start(self._engine, exchange, box.mailbox, number)
            await ended
            status, headers, content = call.take()
        finally:
            box.forget(number)
            if call is not None:
                exchange.phase = call.phase
                call.cancel()
        if _is_plain(headers):
            return HttpResponse(status, headers, content)
        steps = _inflated(exchange, self._wiring, status, headers, content)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                response: HttpResponse = done.value
                return response
            await asyncio.sleep(0)

    async def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """See :class:`.base.AsyncStreamingHttpEngine`."""
        loop = asyncio.get_running_loop()
        box = self._box(loop)
        number = box.number(loop)
        told = box.expect(loop, number)
        call = None
        try:
            call = _start(self._engine, exchange, box.mailbox, number, streamed=True)
            await told
            head = call.head()
            if head is not None:
                yield exchange.begin(*head, limits=self._wiring.limits)
            while (chunk := call.next()) != b"":
                if chunk is None:
                    await box.expect(loop, number)
                else:
                    yield chunk
        finally:
            box.forget(number)
            if call is not None:
                exchange.phase = call.phase
                call.cancel()

    async def aclose(self) -> None:
        """See :class:`.base.AsyncHttpEngine`."""
        here = asyncio.get_running_loop()
        with self._lock:
            self._closed = True
            boxes, self._boxes = self._boxes, weakref.WeakKeyDictionary()
        self._engine.close()
        for loop, box in boxes.items():
            if loop is here:
                box.close(loop)
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and watches nothing
                    loop.call_soon_threadsafe(box.close, loop)

    def _box(self, loop: asyncio.AbstractEventLoop) -> _Box:
        box = self._boxes.get(loop)
        if box is None:
            try:
                with self._lock:
                    if self._closed:
                        raise RuntimeError("the client is closed")
                    without_closed(self._boxes)
                    box = self._boxes[loop] = _Box(loop, self._engine)
            except OSError as error:
                raise_without_cycle(_no_connection(error))
        return box


class NativeHttpEngine:
    """On the calling thread, which waits with the GIL released."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._engine = _open(wiring)

    def send(self, exchange: Exchange) -> HttpResponse:
        """See :class:`.base.HttpEngine`."""
        call = _start(self._engine, exchange, None, 0)
        try:
            self._wait(call, exchange.deadline)
            status, headers, content = call.take()
        finally:
            exchange.phase = call.phase
            call.cancel()
        if _is_plain(headers):
            return HttpResponse(status, headers, content)
        steps = _inflated(exchange, self._wiring, status, headers, content)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                response: HttpResponse = done.value
                return response
            _check_deadline(exchange)

    def stream(self, exchange: Exchange) -> Generator[bytes, None, None]:
        """See :class:`.base.StreamingHttpEngine`."""
        call = _start(self._engine, exchange, None, 0, streamed=True)
        try:
            self._wait(call, exchange.deadline)
            head = call.head()
            if head is not None:
                yield exchange.begin(*head, limits=self._wiring.limits)
            while (chunk := call.next()) != b"":
                if chunk is None:
                    self._wait(call, exchange.deadline)
                else:
                    yield chunk
                    _check_deadline(exchange)
        finally:
            exchange.phase = call.phase
            call.cancel()

    def close(self) -> None:
        """See :class:`.base.HttpEngine`."""
        self._engine.close()

    def _wait(self, call: NativeCall, deadline: float | None) -> None:
        most = _SIGNALS if threading.current_thread() is threading.main_thread() else _LONG
        while True:
            left = _LONG if deadline is None else max(deadline - time.monotonic(), 0.0)
            if call.wait(min(left, most)):
                return
            if deadline is not None and left <= 0:
                raise TransportError("the deadline is over", phase=call.phase)


class _Box:
    """The calls of one event loop: those that begin in one turn are sent together, those that ended wake together.

    It is handed the loop, which costs time to ask for, and keeps none: it would keep it alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: NativeEngine) -> None:
        self.mailbox = NativeMailbox()
        self._engine = engine
        self._flushes = False
        self._numbers = itertools.count()
        self._expected: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self.mailbox.fileno(), self._drain)

    def number(self, loop: asyncio.AbstractEventLoop) -> int:
        """The number of a call that begins in this turn of the loop."""
        if not self._flushes:
            self._flushes = True
            loop.call_soon(self._flush)
        return next(self._numbers)

    def expect(self, loop: asyncio.AbstractEventLoop, number: int) -> asyncio.Future[None]:
        """What is done when the call has ended, or there is more of its stream."""
        told: asyncio.Future[None] = loop.create_future()
        self._expected[number] = told
        return told

    def _flush(self) -> None:
        self._flushes = False
        self._engine.flush()

    def forget(self, number: int) -> None:
        """The call has no waiter left."""
        self._expected.pop(number, None)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the calls that were given up, and watch no more."""
        self._drain()
        loop.remove_reader(self.mailbox.fileno())

    def _drain(self) -> None:
        for number in self.mailbox.drain():
            told = self._expected.pop(number, None)
            if told is not None and not told.done():
                told.set_result(None)


def _start(
    engine: NativeEngine,
    exchange: Exchange,
    mailbox: NativeMailbox | None,
    number: int,
    *,
    streamed: bool = False,
) -> NativeCall:
    request = exchange.request
    headers = request.headers if isinstance(request.headers, dict) else dict(request.headers)
    try:
        return engine.start(
            request.method,
            request.url,
            headers,
            request.content,
            exchange.into_body,
            exchange.expected,
            streamed,
            mailbox,
            number,
        )
    except OSError as error:
        raise_without_cycle(_no_connection(error))


def _check_deadline(exchange: Exchange) -> None:
    if exchange.deadline is not None and time.monotonic() > exchange.deadline:
        raise TransportError("the deadline is over", phase=exchange.phase)


def _no_connection(error: OSError) -> TransportError:
    return TransportError(f"{type(error).__name__}: {error}", phase="connect")


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Whether the body is as it will be decoded."""
    encoding = headers.get("content-encoding")
    return encoding is None or encoding.strip().lower() in ("", "identity")


def _inflated(
    exchange: Exchange, wiring: Wiring, status: int, headers: Mapping[str, str], content: Body | bytes
) -> Generator[None, None, HttpResponse]:
    """Return the answer, decompressed in steps."""
    receiver = exchange.receiver(status, headers, wiring.limits)
    sent = memoryview(content)
    for begin in range(0, len(sent), _INFLATED_STEP):
        if not receiver.feed(bytes(sent[begin : begin + _INFLATED_STEP])):
            break
        yield
    return receiver.finish()


def _open(wiring: Wiring) -> NativeEngine:
    limits = wiring.limits
    return NativeEngine(
        connect_timeout=wiring.connect_timeout,
        keepalive=KEEPALIVE,
        max_head=limits.max_header_bytes,
        max_body=limits.max_response_bytes,
        max_error=limits.max_error_bytes,
        proxy=None if wiring.proxy is None else _proxy(wiring.proxy),
        **_trust(wiring.trust),
    )


def _proxy(url: str) -> tuple[bool, str, int, str | None]:
    parts = urlsplit(url)
    https = parts.scheme == "https"
    authorization = None
    if parts.username is not None:
        told = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(told.encode()).decode()}"
    return https, parts.hostname or "", parts.port or (443 if https else 80), authorization


def _trust(tls: Any) -> dict[str, Any]:
    """What of a server's certificate is checked, and by whom it must be signed."""
    if not isinstance(tls, ssl.SSLContext):
        return {"roots": None, "verified": tls == "verify", "named": True}
    if tls.verify_mode == ssl.CERT_NONE:
        return {"roots": [], "verified": False, "named": False}
    roots = tls.get_ca_certs(binary_form=True)
    unread = _unread(tls, roots)
    if unread is not None:
        raise ValueError(f"http='native' cannot read {unread} of an ssl.SSLContext; http='httpx' uses it as it is")
    return {"roots": roots, "verified": True, "named": tls.check_hostname}


def _unread(context: ssl.SSLContext, roots: list[bytes]) -> str | None:
    """What a context asks for that its certificates do not tell."""
    stats = context.cert_store_stats()
    if not roots:
        return "the trusted certificates, which are in a directory,"
    if stats["x509"] != stats["x509_ca"]:
        return "trusted certificates that are no authority's"
    if stats["crl"] or context.verify_flags & (ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_CRL_CHECK_CHAIN):
        return "the revocation lists"
    return None
