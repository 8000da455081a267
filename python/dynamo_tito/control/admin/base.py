"""One protocol for the administration of one worker, and what its implementations share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack, runtime_checkable

from dynamo_tito._config import Backend
from dynamo_tito._errors import NotFoundError
from dynamo_tito.control._http import HttpOptions, Server, models_of

if TYPE_CHECKING:
    from dynamo_tito.control._types import PauseMode, WeightGroup, WeightUpdate

CEILING = 3600.0
"""Seconds of any one request; a :class:`dynamo_tito.control.Fleet` cancels sooner."""


@runtime_checkable
class AdminApi(Protocol):
    """Administers one worker. Every method sends and either returns, or raises: nothing fails silently.

    Raises:
        ServerError: the worker refused or failed, whatever HTTP status it said so with.
        TransportError: no complete answer came.
        NotImplementedError, ValueError: this backend has no such thing; nothing was sent.
    """

    @property
    def url(self) -> str:
        """The worker's address, without credentials."""

    async def health(self) -> None:
        """Return if the worker is alive."""

    async def models(self) -> tuple[str, ...]:
        """Names of the models and adapters that it serves."""

    async def pause(self, mode: PauseMode = "keep", *, clear_cache: bool = False) -> None:
        """Hold generation. Idempotent."""

    async def resume(self) -> None:
        """Let it go on. Idempotent."""

    async def is_paused(self) -> bool | None:
        """Whether generation is held; None if the worker cannot tell."""

    async def flush_cache(self) -> None:
        """Empty the prefix cache. Idempotent."""

    async def update_weights(self, update: WeightUpdate) -> None:
        """Load weights. Idempotent from disk, never by collective."""

    async def init_weight_group(self, group: WeightGroup) -> None:
        """Join the process group that brings weights."""

    async def destroy_weight_group(self) -> None:
        """Leave it."""

    async def weight_version(self) -> str | None:
        """The version in force; None if the worker knows of none."""

    async def world_size(self) -> int | None:
        """Ranks of the worker; None if it does not say."""

    async def adapters(self) -> Mapping[str, str | None] | None:
        """The loaded adapters, name to the path that each was loaded from; None if the worker lists none.

        A path is None where the worker lists names only.
        """

    async def load_lora(self, name: str, path: str) -> None:
        """Load an adapter; one that has the name is unloaded first. Idempotent."""

    async def unload_lora(self, name: str) -> None:
        """Drop an adapter."""

    async def abort(self, request_id: str | None = None) -> None:
        """Abort one request, or all."""

    async def aclose(self) -> None:
        """Close the connections."""


class HttpAdmin:
    """What the implementations share.

    Args:
        url: the worker.
        **options: see :class:`dynamo_tito.control.HttpOptions`.
    """

    backend: ClassVar[Backend]

    def __init__(self, url: str, **options: Unpack[HttpOptions]) -> None:
        self._server = Server(url, timeout=CEILING, **options)

    @property
    def url(self) -> str:
        """The worker's address, without credentials."""
        return self._server.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def health(self) -> None:
        """``GET /health``."""
        await self._server.json("GET", "/health")

    async def models(self) -> tuple[str, ...]:
        """``GET /v1/models``."""
        return await models_of(self._server)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()

    async def _post(self, path: str, body: Any = None, **query: str) -> Any:
        answer = await self._server.json("POST", path, {} if body is None else body, query=query)
        # Any backend may say no with 200.
        if isinstance(answer, dict) and (
            answer.get("status") == "error" or answer.get("success") is False or answer.get("error")
        ):
            raise self._server.refusal(
                path, str(answer.get("message") or answer.get("error_message") or answer.get("error") or answer)
            )
        return answer

    async def _ask(self, path: str, key: str) -> Any:
        """One member of an answer; None where the route does not exist."""
        try:
            answer = await self._server.json("GET", path)
        except NotFoundError:
            return None
        return answer.get(key) if isinstance(answer, dict) else None


def version_text(value: Any) -> str | None:
    """A version as text: workers report what they were given, numbers too."""
    return None if value is None else str(value)


def rank_count(value: Any) -> int | None:
    """A world size, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
