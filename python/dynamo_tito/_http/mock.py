"""An HTTP engine for tests: a function answers instead of a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import TypeAlias

from .base import Exchange, HttpRequest, HttpResponse

Handler: TypeAlias = Callable[[HttpRequest], HttpResponse]


class MockTransport:
    """Answers every request by calling ``handler``; pass it as ``http_client``, to either client.

    The answer passes the same checks as one from a network: limits, content-length, compression.

    Example::

        def handler(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, {}, recorded_body)

        client = TitoClient("http://test", model="m", http_client=MockTransport(handler))

    Args:
        handler: makes the answer of a request; what it raises reaches the caller.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[HttpRequest] = []

    def send(self, exchange: Exchange) -> HttpResponse:
        """Ask the handler."""
        self.requests.append(exchange.request)
        answer = self._handler(exchange.request)
        return exchange.receive(answer.status, answer.headers, [bytes(answer.content)])

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """Ask the handler."""
        return self.send(exchange)

    def stream(self, exchange: Exchange) -> Generator[bytes, None, None]:
        """Ask the handler; its content is one chunk."""
        self.requests.append(exchange.request)
        answer = self._handler(exchange.request)
        yield exchange.begin(answer.status, answer.headers)
        yield bytes(answer.content)

    async def astream(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """Ask the handler; its content is one chunk."""
        for chunk in self.stream(exchange):
            yield chunk

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""
