"""The OpenAI clients, 2.x and 3.x, as carriers: their connections, their headers and their key.

A request goes out with ``max_retries=0``: a client that sends a request again samples it again. The answer is asked for
as a stream, whose response has a body that is not read yet.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import TYPE_CHECKING, Any, cast

import openai

from dynamo_tito._errors import TransportError, raise_without_cycle

from .base import Exchange, HttpRequest, Wiring, transport_error
from .httpx import AsyncHttpxEngine, HttpxEngine, errors_of, timeouts

if TYPE_CHECKING:
    import httpx

# The argument of `post` that takes bytes; before it had one of its own it was `body`.
_CONTENT = "content" if "content" in inspect.signature(openai.OpenAI.post).parameters else "body"

# The spelling of the client's own headers, so that a field is replaced, not sent twice.
_SPELT = {"accept": "Accept", "content-type": "Content-Type", "authorization": "Authorization"}


class AsyncOpenAIEngine(AsyncHttpxEngine):
    """Over an ``openai.AsyncOpenAI``, which it does not close."""

    def __init__(self, wiring: Wiring, client: openai.AsyncOpenAI) -> None:
        self._wiring = wiring
        self._carrier = client
        self._owned = False
        self._failures, self._before_sending = errors_of(_library())

    async def _respond(self, exchange: Exchange) -> httpx.Response:
        request, carrier = exchange.request, self._carrier
        exchange.phase = "headers"  # how far it got is not told, so the request counts as sent
        ask = carrier.post if request.method == "POST" else carrier.get
        options = _options(request, self._wiring, None)
        try:
            stream = await ask(
                request.url, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object], **options
            )
        except openai.APIStatusError as error:
            return cast("httpx.Response", error.response)
        except openai.APIError as error:
            raise_without_cycle(_failure(error, exchange, self._before_sending, self._wiring))
        return cast("httpx.Response", stream.response)


class OpenAIEngine(HttpxEngine):
    """Over an ``openai.OpenAI``, which it does not close."""

    def __init__(self, wiring: Wiring, client: openai.OpenAI) -> None:
        self._wiring = wiring
        self._carrier = client
        self._owned = False
        self._failures, self._before_sending = errors_of(_library())

    def _respond(self, exchange: Exchange) -> httpx.Response:
        request, carrier = exchange.request, self._carrier
        exchange.phase = "headers"
        ask = carrier.post if request.method == "POST" else carrier.get
        options = _options(request, self._wiring, exchange.deadline)
        try:
            stream = ask(request.url, cast_to=object, stream=True, stream_cls=openai.Stream[object], **options)
        except openai.APIStatusError as error:
            return cast("httpx.Response", error.response)
        except openai.APIError as error:
            raise_without_cycle(_failure(error, exchange, self._before_sending, self._wiring))
        return cast("httpx.Response", stream.response)


def _library() -> Any:
    """The library that the installed openai is built on: httpx2 from 3.0 on."""
    newer = sys.modules.get("httpx2")
    return newer if newer is not None and openai.Timeout is newer.Timeout else importlib.import_module("httpx")


def _options(request: HttpRequest, wiring: Wiring, ends: float | None) -> dict[str, Any]:
    # The user agent is the client's.
    headers = {_SPELT.get(name, name): value for name, value in request.headers.items() if name != "user-agent"}
    options = {
        "headers": headers,
        "max_retries": 0,
        "follow_redirects": False,
        "timeout": openai.Timeout(**timeouts(wiring, ends)),
    }
    return {"options": options} | ({_CONTENT: request.content} if request.method == "POST" else {})


def _failure(
    error: openai.APIError, exchange: Exchange, before_sending: tuple[type[Exception], ...], wiring: Wiring
) -> TransportError:
    """What the client wraps says more than its own words, which are always the same."""
    cause = error.__cause__
    return transport_error(cause if isinstance(cause, Exception) else error, exchange, before_sending, wiring)
