"""A transport for the tests of others: a function answers instead of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from dynamo_tito._config import Limits

from .base import Exchange, HttpRequest, HttpResponse, Receiver

Handler: TypeAlias = Callable[[HttpRequest], HttpResponse]


class MockTransport:
    """Answers every request by calling ``handler``; pass it as ``http_client``, to either client.

    The answer takes the same way as one from a network: its ceilings, its content-length, its errors.

    Example::

        def handler(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, {}, recorded_body)

        client = TitoClient("http://test", model="m", http_client=MockTransport(handler))

    Args:
        handler: makes the answer of a request; what it raises, the caller sees.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[HttpRequest] = []

    def send(self, exchange: Exchange) -> HttpResponse:
        """Ask the handler."""
        self.requests.append(exchange.request)
        answer = self._handler(exchange.request)
        exchange.phase = "body"
        headers = {name.lower(): value for name, value in answer.headers.items()}
        receiver = Receiver(answer.status, headers, exchange=exchange, limits=Limits())
        receiver.feed(bytes(answer.content))
        return receiver.finish()

    async def asend(self, exchange: Exchange) -> HttpResponse:
        """Ask the handler."""
        return self.send(exchange)

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""
