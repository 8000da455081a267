"""Whose server answers at a URL, found out by asking questions that change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, Unpack

from dynamo_tito._config import Backend
from dynamo_tito._errors import NotFoundError, ServerError, TitoError
from dynamo_tito.control._http import HttpOptions, Server, cards_of

from .dynamo import DynamoAdmin
from .sglang import SglangAdmin
from .vllm import PrimeVllmAdmin, VllmAdmin

KnownAdmin: TypeAlias = DynamoAdmin | VllmAdmin | PrimeVllmAdmin | SglangAdmin

CLASSES: dict[Backend, type[KnownAdmin]] = {
    "dynamo": DynamoAdmin,
    "vllm": VllmAdmin,
    "prime": PrimeVllmAdmin,
    "sglang": SglangAdmin,
}
_TIMEOUT = 30.0


async def detect_backend(url: str, **options: Unpack[HttpOptions]) -> Backend:
    """Whose server this is: a data-plane server, or a Dynamo worker's system server.

    Raises:
        ServerError: a server answers that is none of them.
        TransportError: nothing answers.
    """
    server = Server(url, timeout=_TIMEOUT, **options)
    try:
        return await backend_of(server)
    finally:
        await server.aclose()


async def backend_of(server: Server) -> Backend:
    """See :func:`detect_backend`."""
    return (await recognised(server))[0]


async def recognised(server: Server) -> tuple[Backend, str]:
    """Whose server it is, and what shows it. Errors as of :func:`detect_backend`."""
    for backend, sign, shows in _SIGNS:
        if await shows(server):
            return backend, sign
    raise server.refusal("", "neither Dynamo, vLLM, prime-rl's server nor SGLang; name the backend")


async def has_route(server: Server, path: str) -> bool:
    """Whether a route that takes POST exists; asked with GET, which it refuses."""
    try:
        return (await server.send("GET", path)).status == 405
    except TitoError:
        return False


async def make_admin(
    url: str, backend: Backend | None = None, *, openai_url: str | None = None, **options: Unpack[HttpOptions]
) -> KnownAdmin:
    """The administration of the worker at a URL.

    Args:
        url: the worker; for Dynamo its system server.
        backend: whose server it is; None to ask it.
        openai_url: for Dynamo, the frontend that lists models.
        **options: see :class:`dynamo_tito.control.HttpOptions`.

    Raises:
        ValueError: no such backend.
        ServerError, TransportError: the server could not be told.
    """
    chosen = await detect_backend(url, **options) if backend is None else backend
    if chosen == "dynamo":
        return DynamoAdmin(url, openai_url=openai_url, **options)
    try:
        return CLASSES[chosen](url, **options)
    except (KeyError, TypeError):
        raise ValueError(f"backend must be one of {', '.join(CLASSES)}, not {chosen!r}") from None


async def _member(server: Server, method: str, path: str, key: str) -> Any:
    try:
        answer = await server.json(method, path, {} if method == "POST" else None)
    except (NotFoundError, ServerError):
        return None
    return answer.get(key) if isinstance(answer, dict) else None


async def _lists_endpoints(server: Server) -> bool:
    return isinstance(await _member(server, "GET", "/health", "endpoints"), list)


async def _owned(server: Server, owner: str) -> bool:
    """Whether a model is listed as this owner's; without a list servers are told apart by routes."""
    with contextlib.suppress(ServerError):
        return any(card.get("owned_by") == owner for card in await cards_of(server))
    return False


_SIGNS: tuple[tuple[Backend, str, Callable[[Server], Awaitable[Any]]], ...] = (
    ("sglang", "/model_info names a model_path", lambda server: _member(server, "GET", "/model_info", "model_path")),
    (
        "dynamo",
        "/engine/liveness_probe answers",
        lambda server: _member(server, "POST", "/engine/liveness_probe", "status"),
    ),
    ("dynamo", "its models are owned by nvidia", lambda server: _owned(server, "nvidia")),
    ("dynamo", "/health lists endpoints", _lists_endpoints),
    ("prime", "it has /init_broadcaster", lambda server: has_route(server, "/init_broadcaster")),
    ("vllm", "its models are owned by vllm", lambda server: _owned(server, "vllm")),
    ("vllm", "it has /reset_prefix_cache", lambda server: has_route(server, "/reset_prefix_cache")),
    ("sglang", "its models are owned by sglang", lambda server: _owned(server, "sglang")),
)
"""Whose server a question shows it to be, in the order in which they are asked."""
