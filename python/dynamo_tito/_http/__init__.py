"""What moves bytes: the engine of the core, or one over a library, which is imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple, get_args

from dynamo_tito._config import HttpLibrary

from .base import AsyncHttpEngine, Exchange, HttpEngine, HttpRequest, HttpResponse, Wiring

__all__ = [
    "AsyncHttpEngine",
    "Exchange",
    "HttpEngine",
    "HttpRequest",
    "HttpResponse",
    "Wiring",
    "open_async",
    "open_sync",
]


class _Carrier(NamedTuple):
    """An object that is taken as ``http_client``, and the engine over it."""

    module: str
    kind: str
    engine: str


_ASYNC = (
    _Carrier("httpx", "AsyncClient", "httpx.AsyncHttpxEngine"),
    _Carrier("httpx2", "AsyncClient", "httpx.AsyncHttpxEngine"),
    _Carrier("aiohttp", "ClientSession", "aiohttp.AiohttpEngine"),
    _Carrier("openai", "AsyncOpenAI", "openai.AsyncOpenAIEngine"),
)
_SYNC = (
    _Carrier("httpx", "Client", "httpx.HttpxEngine"),
    _Carrier("httpx2", "Client", "httpx.HttpxEngine"),
    _Carrier("openai", "OpenAI", "openai.OpenAIEngine"),
)


def open_async(http: HttpLibrary, client: Any, wiring: Wiring) -> AsyncHttpEngine:
    """The engine of an asynchronous client: the caller's client or engine, or one of our own.

    Raises:
        ModuleNotFoundError: ``http="httpx"`` without the extra ``dynamo-tito[httpx]``.
        TypeError: ``client`` is something else.
        ValueError: ``http`` names no engine.
    """
    own = {"native": "native.AsyncNativeEngine", "httpx": "httpx.AsyncHttpxEngine"}
    engine: AsyncHttpEngine = _opened(http, client, wiring, own, _ASYNC, AsyncHttpEngine)
    return engine


def open_sync(http: HttpLibrary, client: Any, wiring: Wiring) -> HttpEngine:
    """The engine of a blocking client; see :func:`open_async`."""
    own = {"native": "native.NativeHttpEngine", "httpx": "httpx.HttpxEngine"}
    engine: HttpEngine = _opened(http, client, wiring, own, _SYNC, HttpEngine)
    return engine


def _opened(
    http: str, client: Any, wiring: Wiring, own: dict[str, str], carriers: tuple[_Carrier, ...], protocol: type
) -> Any:
    if http not in get_args(HttpLibrary):
        raise ValueError(
            f"http must be 'native' or 'httpx', not {http!r}; a session of aiohttp is given as http_client"
            if http == "aiohttp"
            else f"http must be 'native' or 'httpx', not {http!r}"
        )
    if client is None:
        try:
            return _engine(own[http])(wiring)
        except ModuleNotFoundError as error:
            if error.name != http:
                raise
            raise ModuleNotFoundError(
                f"http={http!r} needs the extra: pip install 'dynamo-tito[{http}]'", name=error.name
            ) from error
    for module, kind, engine in carriers:
        # Without the module there is no such object; an import only to ask costs time.
        known = getattr(sys.modules.get(module), kind, None)
        if known is not None and isinstance(client, known):
            return _engine(engine)(wiring, client)
    if isinstance(client, protocol):
        return client
    names = ", ".join(f"{carrier.module}.{carrier.kind}" for carrier in carriers)
    found = f"{type(client).__module__}.{type(client).__qualname__}"
    raise TypeError(f"http_client must be one of {names}, or a {protocol.__name__}, not {found}")


def _engine(name: str) -> Any:
    module, _, kind = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)
