"""The transports: one file per HTTP library, each imported when it is first needed."""

from __future__ import annotations

import sys
from typing import Any, get_args

from dynamo_tito._config import HttpLibrary

from .base import AsyncTransport, Exchange, HttpRequest, HttpResponse, SyncTransport, Wiring

__all__ = [
    "AsyncTransport",
    "Exchange",
    "HttpRequest",
    "HttpResponse",
    "SyncTransport",
    "Wiring",
    "open_async",
    "open_sync",
]


def open_async(http: HttpLibrary, client: Any, wiring: Wiring) -> AsyncTransport:
    """The transport of an asynchronous client.

    Args:
        http: which library, unless ``client`` says.
        client: an ``httpx.AsyncClient``, an ``aiohttp.ClientSession``, a transport, or None.
        wiring: how connections are opened.

    Raises:
        ModuleNotFoundError: ``http="aiohttp"`` without the extra ``dynamo-tito[aiohttp]``.
        TypeError: ``client`` is something else.
        ValueError: ``http`` names no library that is known.
    """
    _check_library(http)
    if (client is None and http == "aiohttp") or _is_a(client, "aiohttp", "ClientSession"):
        try:
            from .aiohttp import AiohttpTransport  # noqa: PLC0415 - loaded when it is needed
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "http='aiohttp' needs the extra: pip install 'dynamo-tito[aiohttp]'", name=error.name
            ) from error
        return AiohttpTransport(wiring, client)
    if client is None or _is_a(client, "httpx", "AsyncClient"):
        from .httpx import AsyncHttpxTransport  # noqa: PLC0415 - loaded when it is needed

        return AsyncHttpxTransport(wiring, client)
    if isinstance(client, AsyncTransport):
        return client
    raise TypeError(f"http_client must be an httpx.AsyncClient or an aiohttp.ClientSession, not {_name(client)}")


def open_sync(http: HttpLibrary, client: Any, wiring: Wiring) -> SyncTransport:
    """The transport of a blocking client.

    Args:
        http: ``"httpx"``; aiohttp does not block.
        client: an ``httpx.Client``, a transport, or None.
        wiring: how connections are opened.

    Raises:
        TypeError: ``client`` is something else.
        ValueError: another library than httpx.
    """
    _check_library(http)
    if http != "httpx":
        raise ValueError("the blocking client speaks httpx only; aiohttp needs AsyncTitoClient")
    if client is None or _is_a(client, "httpx", "Client"):
        from .httpx import HttpxTransport  # noqa: PLC0415 - loaded when it is needed

        return HttpxTransport(wiring, client)
    if isinstance(client, SyncTransport):
        return client
    raise TypeError(f"http_client must be an httpx.Client, not {_name(client)}")


def _is_a(client: Any, module: str, name: str) -> bool:
    # A module that nobody imported made no object; importing it to ask would cost its import.
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(client, kind)


def _check_library(http: str) -> None:
    if http not in get_args(HttpLibrary):
        raise ValueError(f"http must be 'httpx' or 'aiohttp', not {http!r}")


def _name(client: Any) -> str:
    return f"{type(client).__module__}.{type(client).__qualname__}"
