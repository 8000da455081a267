"""What moves bytes: one engine per HTTP library, each imported on first use."""

from __future__ import annotations

import sys
from typing import Any, get_args

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


def open_async(http: HttpLibrary, client: Any, wiring: Wiring) -> AsyncHttpEngine:
    """The engine of an asynchronous client: the caller's client or engine, or one over the library ``http``.

    Raises:
        ModuleNotFoundError: ``http="aiohttp"`` without the extra ``dynamo-tito[aiohttp]``.
        TypeError: ``client`` is something else.
        ValueError: ``http`` names no known library.
    """
    _check_library(http)
    if (client is None and http == "aiohttp") or _is_a(client, "aiohttp", "ClientSession"):
        try:
            from .aiohttp import AiohttpEngine  # noqa: PLC0415 - loaded when it is needed
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "http='aiohttp' needs the extra: pip install 'dynamo-tito[aiohttp]'", name=error.name
            ) from error
        return AiohttpEngine(wiring, client)
    if client is None and http == "native":
        from .native import AsyncNativeEngine  # noqa: PLC0415 - loaded when it is needed

        return AsyncNativeEngine(wiring)
    if client is None or _is_a(client, "httpx", "AsyncClient"):
        from .httpx import AsyncHttpxEngine  # noqa: PLC0415 - loaded when it is needed

        return AsyncHttpxEngine(wiring, client)
    if isinstance(client, AsyncHttpEngine):
        return client
    raise TypeError(
        f"http_client must be an httpx.AsyncClient, an aiohttp.ClientSession or an AsyncHttpEngine, not {_name(client)}"
    )


def open_sync(http: HttpLibrary, client: Any, wiring: Wiring) -> HttpEngine:
    """The engine of a blocking client; see :func:`open_async`. aiohttp does not block."""
    _check_library(http)
    if http == "aiohttp":
        raise ValueError("aiohttp does not block: use http='httpx' or 'native', or AsyncTitoClient")
    if client is None and http == "native":
        from .native import NativeHttpEngine  # noqa: PLC0415 - loaded when it is needed

        return NativeHttpEngine(wiring)
    if client is None or _is_a(client, "httpx", "Client"):
        from .httpx import HttpxEngine  # noqa: PLC0415 - loaded when it is needed

        return HttpxEngine(wiring, client)
    if isinstance(client, HttpEngine):
        return client
    raise TypeError(f"http_client must be an httpx.Client or an HttpEngine, not {_name(client)}")


def _is_a(client: Any, module: str, name: str) -> bool:
    # Without the module there is no such object; an import only to ask costs time.
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(client, kind)


def _check_library(http: str) -> None:
    if http not in get_args(HttpLibrary):
        raise ValueError(f"http must be 'httpx', 'aiohttp' or 'native', not {http!r}")


def _name(client: Any) -> str:
    return f"{type(client).__module__}.{type(client).__qualname__}"
