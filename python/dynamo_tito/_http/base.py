"""What every HTTP engine has in common.

An engine carries one request and returns one whole answer, or hands over its body as it comes. It sends once, follows
no redirect and does not decompress: :class:`Receiver` checks sizes and completeness for all of them.
"""

from __future__ import annotations

import traceback
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from dynamo_tito._config import Limits, over_limit_message
from dynamo_tito._errors import TransportError
from dynamo_tito._http.secrets import hidden, masked, secrets_of
from dynamo_tito._native import Body

if TYPE_CHECKING:
    from types import TracebackType

    from dynamo_tito._errors import TransportPhase
    from dynamo_tito._http.environment import Tls

_INFLATE_STEP = 1 << 20
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_LENGTH_DIGITS = 18
_KNOWN_ENCODINGS = ("br", "compress", "zstd")
_MESSAGE_CHARACTERS = 300
# Most bytes that are reserved before they arrive; a larger body grows.
_RESERVED = 256 << 20


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, ready to be sent.

    Attributes:
        method: ``"POST"`` or ``"GET"``.
        url: absolute, without credentials.
        headers: names in lower case.
        content: the body.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer, complete.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
        content: the body, decompressed: a :class:`dynamo_tito.Body` where the request's answer is to be decoded, else
            bytes; of an error the first part only.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: Body | bytes = field(repr=False)

    @property
    def good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class Exchange:
    """One request on its way, as an HTTP engine gets it. The engine keeps ``phase`` up to date.

    Attributes:
        request: what is sent.
        into_body: whether a good answer goes into a :class:`dynamo_tito.Body`; :meth:`receive` sees to it.
        deadline: on the monotonic clock; a blocking engine does not wait beyond it. None for no limit, and on an event
            loop, where the caller is cancelled instead.
        phase: how far it got: ``"connect"``, ``"send"``, ``"headers"``, ``"body"``. An error in ``"connect"`` says that
            nothing of the request was written, so that it may be sent again.
        expected: bytes that a good answer will probably have, where the server does not say; 0 is unknown.
        body: where a good answer's bytes go, from its headers on; None again when the exchange is over.
        incoming: what checks the body of a stream, from its headers on; None again when the exchange is over.
    """

    request: HttpRequest
    into_body: bool = False
    deadline: float | None = None
    phase: TransportPhase = "connect"
    expected: int = 0
    body: Body | None = field(default=None, repr=False)
    incoming: Receiver | None = field(default=None, repr=False)

    def receive(
        self, status: int, headers: Mapping[str, str], chunks: Iterable[bytes], *, limits: Limits | None = None
    ) -> HttpResponse:
        """The whole answer, decompressed, from its status, its headers and the chunks of its body as sent.

        Args:
            status: the HTTP status.
            headers: of the answer; names in any case.
            chunks: of the body. Of an error's body the rest is not read once its limit is reached.
            limits: of the answer; the default ones if None.

        Raises:
            TransportError: headers or body over a limit, fewer bytes than announced, or broken compression.
        """
        receiver = self.receiver(status, headers, limits)
        for chunk in chunks:
            if not receiver.feed(chunk):
                break
        return receiver.finish()

    async def areceive(
        self, status: int, headers: Mapping[str, str], chunks: AsyncIterable[bytes], *, limits: Limits | None = None
    ) -> HttpResponse:
        """As :meth:`receive`, from asynchronous chunks."""
        receiver = self.receiver(status, headers, limits)
        async for chunk in chunks:
            if not receiver.feed(chunk):
                break
        return receiver.finish()

    def begin(self, status: int, headers: Mapping[str, str], *, limits: Limits | None = None) -> bytes:
        """Say that the headers of a stream are there; see :meth:`StreamingHttpEngine.stream`.

        Args:
            status: the HTTP status.
            headers: of the answer; names in any case.
            limits: of the answer; the default ones if None.

        Returns:
            An empty chunk, which the engine yields first: the client sees the headers before the first byte.

        Raises:
            TransportError: headers over a limit, or a body that cannot be read.
        """
        self.incoming = self.receiver(status, headers, limits)
        return b""

    def receiver(self, status: int, headers: Mapping[str, str], limits: Limits | None = None) -> Receiver:
        """What takes the body, whose phase begins."""
        self.phase = "body"
        lower = {name.lower(): value for name, value in headers.items()}
        return Receiver(status, lower, exchange=self, limits=Limits() if limits is None else limits)

    def __enter__(self) -> Self:
        """The exchange begins."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, raised: TracebackType | None
    ) -> None:
        """It is over."""
        body, self.body = self.body, None
        self.incoming = None
        if error is not None:
            release(body, raised)


def release(content: Body | bytes | None, raised: TracebackType | None) -> None:
    """Free a failed answer: its error may be kept, and the frames of its traceback hold the body."""
    if isinstance(content, Body):
        content.close()
    traceback.clear_frames(raised)


@dataclass(frozen=True, slots=True)
class Wiring:
    """How an engine opens its connections.

    Attributes:
        limits: ceilings of one answer.
        connect_timeout: seconds for one connection and its TLS handshake.
        proxy: URL of the proxy, or None.
        trust: which certificates of servers are good.
        secrets: masked in messages, beside those in the headers of a request.
    """

    limits: Limits
    connect_timeout: float
    proxy: str | None = field(repr=False)
    trust: Tls = field(default="verify", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@runtime_checkable
class AsyncHttpEngine(Protocol):
    """Carries the requests of an :class:`AsyncTitoClient`: an object with these methods is an ``http_client``.

    One whose attribute ``any_loop`` is true is used from any number of event loops at once.
    """

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """Send once and return the whole answer, whatever its status; see :meth:`Exchange.areceive`.

        Cancelling the call closes the request's connection. TransportError, with the exchange's phase, if there is no
        whole answer.
        """

    async def aclose(self) -> None:
        """Close every connection."""


@runtime_checkable
class HttpEngine(Protocol):
    """Carries the requests of a :class:`TitoClient`, from any number of threads: an ``http_client`` of that client."""

    def send(self, exchange: Exchange) -> HttpResponse:
        """Send once and return the whole answer, whatever its status; see :meth:`Exchange.receive`.

        TransportError, with the exchange's phase, if there is no whole answer before ``exchange.deadline``.
        """

    def close(self) -> None:
        """Close every connection."""


@runtime_checkable
class AsyncStreamingHttpEngine(AsyncHttpEngine, Protocol):
    """An engine that can also hand over a body as it comes; without this method there are no streams over it."""

    def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """As :meth:`StreamingHttpEngine.stream`: an asynchronous generator."""
        raise NotImplementedError


@runtime_checkable
class StreamingHttpEngine(HttpEngine, Protocol):
    """An engine that can also hand over a body as it comes; without this method there are no streams over it."""

    def stream(self, exchange: Exchange) -> Generator[bytes, None, None]:
        """Send once and yield the body in chunks as they come and as they were sent: a generator.

        It first yields what :meth:`Exchange.begin` returns, whatever the status. It reads from the connection only when
        it is asked for the next chunk, and closes the connection when it is closed before the end of the body.

        TransportError, with the exchange's phase, if the body breaks off, or does not go on before
        ``exchange.deadline``, which may change between two chunks.
        """
        raise NotImplementedError


class Receiver:
    """The body of one answer, as it arrives.

    Raises:
        TransportError: headers that are too large (phase ``"headers"``); more bytes than allowed, fewer than announced,
            or broken compression (phase ``"body"``).
    """

    __slots__ = ("_announced", "_inflater", "_limit", "_most", "_received", "_sink", "good", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], *, exchange: Exchange, limits: Limits) -> None:
        self.status = status
        self.headers = headers
        self.good = 200 <= status < 300
        # A field is its name, a colon, a space, its value and the end of the line.
        _check_head(sum(len(name) + len(value) + 4 for name, value in headers.items()), limits)
        self._limit = limits.max_response_bytes if self.good else limits.max_error_bytes
        self._most = limits.max_decompressed_bytes if self.good else limits.max_error_bytes
        self._received = 0
        self._announced = _content_length(headers)
        if self.good:
            self._check(self._announced or 0)
        _check_framing(headers)
        self._inflater = _inflater(headers, self._most)
        self._sink: Body | bytearray = bytearray()
        if self.good and exchange.into_body:
            self._sink = exchange.body = Body(
                min(self._announced or 0, _RESERVED), expected=min(exchange.expected, _RESERVED)
            )

    @property
    def head(self) -> HttpResponse:
        """The answer without its body."""
        return HttpResponse(self.status, self.headers, b"")

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk as sent. False if the rest need not be read, because the limit of an error's body is reached."""
        self._received += len(chunk)
        if self.good:
            self._check(self._received)
        if self._inflater is None:
            _add(self._sink, chunk)
        elif not self._inflater.feed(chunk, self._sink) and self.good:
            found = f"decompressed, the body has at least {self._most + 1} bytes"
            raise TransportError(over_limit_message(found, self._most, "max_decompressed_bytes"), phase="body")
        return self.good or len(self._sink) < self._limit

    def passed(self, chunk: bytes) -> bytes | bytearray:
        """A chunk of a stream, checked and decompressed. Nothing of it stays here."""
        if self._inflater is None:
            self._received += len(chunk)
            self._check(self._received)
            return chunk
        self._sink = plain = bytearray()
        self.feed(chunk)
        self._sink = bytearray()
        return plain

    def finish(self) -> HttpResponse:
        """The answer; TransportError unless a good one is whole."""
        if self.good and self._announced is not None and self._received < self._announced:
            raise TransportError(f"the body ended after {self._received} of {self._announced} bytes", phase="body")
        if self.good and self._inflater is not None:
            self._inflater.finish()
        sink = self._sink
        return HttpResponse(self.status, self.headers, bytes(sink) if isinstance(sink, bytearray) else sink)

    def _check(self, size: int) -> None:
        if size > self._limit:
            found = f"the body has at least {size} bytes"
            raise TransportError(over_limit_message(found, self._limit, "max_response_bytes"), phase="body")


def _check_head(size: int, limits: Limits) -> None:
    if size > limits.max_header_bytes:
        found = f"the headers have at least {size} bytes"
        raise TransportError(over_limit_message(found, limits.max_header_bytes, "max_header_bytes"), phase="headers")


def transport_error(
    error: Exception, exchange: Exchange, before_sending: tuple[type[Exception], ...], wiring: Wiring
) -> TransportError:
    """The TransportError for a library's error, which is not kept: it holds the request, and so the credentials.

    Args:
        error: the library's.
        exchange: its phase says how far it got.
        before_sending: classes of errors that are raised only while nothing of the request was written.
        wiring: its secrets are masked, and those of the request: libraries quote what a server sent.
    """
    if isinstance(error, before_sending):
        exchange.phase = "connect"
    elif exchange.phase == "connect":
        exchange.phase = "headers"  # unknown, so the request counts as sent
    message = hidden(masked(str(error)), (*wiring.secrets, *secrets_of(exchange.request.headers)))
    message = " ".join(message.split())[:_MESSAGE_CHARACTERS]
    return TransportError(
        f"{type(error).__name__}: {message}" if message else type(error).__name__, phase=exchange.phase
    )


def begun(exchange: Exchange, first: bytes | None) -> Receiver:
    """What takes the body of a stream; ``first`` is what the engine yielded first."""
    if exchange.incoming is None or first != b"":
        raise TypeError("the stream of an HTTP engine yields first what Exchange.begin returns")
    return exchange.incoming


class _Inflater:
    """gzip or zlib, one member after the other, never more than ``limit`` bytes of output."""

    __slots__ = ("_limit", "_member", "_written")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._written = 0
        self._member = zlib.decompressobj(_GZIP_OR_ZLIB)

    def feed(self, chunk: bytes, sink: Body | bytearray) -> bool:
        """Decompress into ``sink``; False once the limit is passed."""
        pending = chunk
        while True:
            if self._member.eof:
                if not pending:
                    return True
                self._member = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                plain = self._member.decompress(pending, _INFLATE_STEP)
            except zlib.error as error:
                raise TransportError(f"the body is not what its content-encoding says: {error}", phase="body") from None
            self._written += len(plain)
            if self._written > self._limit:
                return False
            _add(sink, plain)
            pending = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            # A full step may leave output behind although the input is used up.
            if not pending and len(plain) < _INFLATE_STEP:
                return True

    def finish(self) -> None:
        """Raise unless the last member is complete."""
        if not self._member.eof:
            raise TransportError("the compressed body was cut short", phase="body")


def _inflater(headers: Mapping[str, str], limit: int) -> _Inflater | None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Inflater(limit)
    # Only known names are quoted: a server may write a key there.
    named = repr(encoding) if encoding in _KNOWN_ENCODINGS else "of its own"
    raise TransportError(f"the body has a content-encoding {named}, which was not asked for", phase="body")


def _check_framing(headers: Mapping[str, str]) -> None:
    """TransportError for a transfer-encoding that libraries would read to the end of the connection."""
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise TransportError("the body has a transfer-encoding other than chunked, not asked for", phase="body")


def _content_length(headers: Mapping[str, str]) -> int | None:
    value = headers.get("content-length", "")
    # With chunks the header means nothing.
    if not (value.isascii() and value.isdigit()) or "transfer-encoding" in headers:
        return None
    if len(value) > _LENGTH_DIGITS:
        raise TransportError("the content-length has too many digits", phase="body")
    return int(value)


def _add(sink: Body | bytearray, chunk: bytes) -> None:
    if isinstance(sink, bytearray):
        sink += chunk
    else:
        sink.append(chunk)
