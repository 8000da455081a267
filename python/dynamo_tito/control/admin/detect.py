"""Whose server answers at a URL, found out by asking questions that change nothing."""

from __future__ import annotations

import contextlib
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
    if await _member(server, "GET", "/model_info", "model_path"):
        return "sglang"
    if await _member(server, "POST", "/engine/liveness_probe", "status"):
        return "dynamo"
    cards: list[dict[str, Any]] = []
    with contextlib.suppress(ServerError):  # without a list they are told apart by routes
        cards = await cards_of(server)
    owners = {card.get("owned_by") for card in cards}
    if "nvidia" in owners or isinstance(await _member(server, "GET", "/health", "endpoints"), list):
        return "dynamo"
    if await has_route(server, "/init_broadcaster"):
        return "prime"
    if "vllm" in owners or await has_route(server, "/reset_prefix_cache"):
        return "vllm"
    if "sglang" in owners:
        return "sglang"
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
