"""The protocol of administering one worker, and what the HTTP implementations share."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack, runtime_checkable

import numpy as np

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._config import BACKEND_TRANSPORTS, Backend
from dynamo_tito._errors import BadRequestError, NotFoundError, ServerError
from dynamo_tito.control.http import HttpOptions, Server, cards_of, models_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamo_tito.control.types import PauseMode, WeightGroup, WeightUpdate

CEILING = 3600.0
"""Seconds of any one request; a :class:`dynamo_tito.control.Fleet` cancels sooner."""


class StaleCacheError(ServerError):
    """The weights were loaded, and the caches of the old ones were not emptied."""


@runtime_checkable
class AdminApi(Protocol):
    """Administers one worker. A method that returns has succeeded.

    Raises:
        ServerError: the worker refused or failed, whatever the HTTP status.
        TransportError: no complete answer came.
        NotImplementedError, ValueError: this backend cannot do it; nothing was sent.
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
        """Continue generation. Idempotent."""

    async def is_paused(self) -> bool | None:
        """Whether generation is held; None if no route of the worker shows it."""

    async def flush_cache(self) -> None:
        """Empty every cache whose contents depend on the weights. Idempotent."""

    async def update_weights(self, update: WeightUpdate) -> None:
        """Load weights. After an error the weights are unknown, unless it was refused or never arrived.

        Raises:
            StaleCacheError: they were loaded; the caches of the old ones were not emptied.
        """

    async def score(self, token_ids: Sequence[int], *, start: int) -> NDArray[np.float64] | None:
        """The log-probability of each token, given those before it [N], NaN before ``start``.

        No prefix cache is used. None if the worker cannot be reached as a sampler.
        """

    async def weight_checksums(self) -> Mapping[str, str] | None:
        """Name of each weight to the digest of its bytes; None if the worker reports none."""

    async def init_weight_group(self, group: WeightGroup) -> None:
        """Join the process group that brings weights."""

    async def destroy_weight_group(self) -> None:
        """Leave the process group."""

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

    async def model_root(self) -> str | None:
        """Where the model that it serves was loaded from; None if it does not say."""

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
        self._sampler = self._make_sampler(url, options)

    def _make_sampler(self, url: str, options: HttpOptions) -> AsyncTitoClient | None:
        """The client that scores; None where requests go elsewhere than administration."""
        transport = BACKEND_TRANSPORTS[self.backend]
        return AsyncTitoClient(
            url, model=None, transport=transport, retries=None, preflight=False, max_concurrency=4, **options
        )

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

    async def score(self, token_ids: Sequence[int], *, start: int) -> NDArray[np.float64] | None:
        """As prompt log-probabilities, with a ``cache_salt`` of its own."""
        if self._sampler is None:
            return None
        try:
            scores = await self._sampler.score([*token_ids], start=start, cache_salt=uuid.uuid4().hex)
        except NotFoundError:
            return None
        return np.asarray(scores.logprobs, np.float64)

    async def weight_checksums(self) -> Mapping[str, str] | None:
        """None: not every backend has them."""
        return None

    async def model_root(self) -> str | None:
        """Where the model that it serves was loaded from, as ``/v1/models`` says; None if it does not."""
        roots = [card.get("root") for card in await cards_of(self._server) if card.get("parent") is None]
        return roots[0] if roots and isinstance(roots[0], str) else None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()
        if self._sampler is not None:
            await self._sampler.aclose()

    async def _post(self, path: str, body: Any = None, **query: str) -> Any:
        answer = await self._server.json("POST", path, {} if body is None else body, query=query)
        # Every backend may refuse with status 200.
        if isinstance(answer, dict) and (
            answer.get("status") == "error" or answer.get("success") is False or answer.get("error")
        ):
            raise self._server.refusal(
                path, str(answer.get("message") or answer.get("error_message") or answer.get("error") or answer)
            )
        return answer

    async def _post_if_there(self, path: str, body: Any = None, **query: str) -> Any:
        """`_post`; None where the server has no such route."""
        try:
            return await self._post(path, body, **query)
        except NotFoundError:
            return None

    async def _ask(self, path: str, key: str) -> Any:
        """One member of an answer; None where the route does not exist."""
        try:
            answer = await self._server.json("GET", path)
        except NotFoundError:
            return None
        return answer.get(key) if isinstance(answer, dict) else None


def refused(error: ServerError) -> BadRequestError:
    """The error as a BadRequestError: the worker refused before it began."""
    return BadRequestError(str(error), status=error.status, body=error.body.encode(), request_id=error.request_id)


def version_text(value: Any) -> str | None:
    """A version as text: workers report numbers too, as they were given."""
    return None if value is None else str(value)


def rank_count(value: Any) -> int | None:
    """A world size, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
