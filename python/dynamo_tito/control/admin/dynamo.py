"""Dynamo: ``POST <system_url>/engine/<route>`` on each worker's system server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from dynamo_tito._errors import ServerError
from dynamo_tito.control.http import HttpOptions, Server, models_of

from .adapters import AdapterAdmin, name_in_use
from .base import CEILING, refused, version_text

if TYPE_CHECKING:
    from dynamo_tito._config import Backend
    from dynamo_tito.control.types import PauseMode, WeightGroup, WeightUpdate


_REFUSALS = (
    "must be paused", "Missing '", "must be a boolean", "is not implemented", "cannot reset the prefix cache",
)  # fmt: skip
"""What a worker says before it asks the engine (Dynamo 1.6.1)."""


class DynamoAdmin(AdapterAdmin):
    """One worker behind Dynamo's frontend.

    A failure of logic is HTTP 200 with ``{"status": "error"}``, whether it was found before the engine was asked or
    while it loaded. Its caches but the prefix cache have no route. It is not scored: requests go through the frontend,
    and an answer with prompt log-probabilities does not say which worker gave it. ``/health`` says ``notready`` unless
    ``DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS`` is set, so liveness is asked of the engine.

    Args:
        url: the worker's system server.
        openai_url: the frontend, which lists models; the system server does not.
        world_size: the worker's ranks, as discovery lists them.

    The other keywords are those of :class:`dynamo_tito.control.HttpOptions`.
    """

    backend: ClassVar[Backend] = "dynamo"

    def __init__(
        self, url: str, *, openai_url: str | None = None, world_size: int | None = None, **options: Unpack[HttpOptions]
    ) -> None:
        super().__init__(url, **options)
        self._frontend = None if openai_url is None else Server(openai_url, timeout=CEILING, **options)
        self._world_size = world_size

    async def aclose(self) -> None:
        """Close the connections."""
        await super().aclose()
        if self._frontend is not None:
            await self._frontend.aclose()

    async def health(self) -> None:
        """``liveness_probe``."""
        answer = await self._engine("liveness_probe")
        if answer.get("alive") is not True:
            raise self._server.refusal("/engine/liveness_probe", "the engine is not alive")

    async def models(self) -> tuple[str, ...]:
        """``GET /v1/models`` of the frontend."""
        if self._frontend is None:
            raise ValueError("the models of a Dynamo worker are listed by its frontend: give openai_url")
        return await models_of(self._frontend)

    async def pause(self, mode: PauseMode = "keep", *, clear_cache: bool = False) -> None:
        """``pause_generation``."""
        await self._engine("pause_generation", {"mode": mode, "clear_cache": clear_cache})

    async def resume(self) -> None:
        """``resume_generation``."""
        await self._engine("resume_generation")

    async def is_paused(self) -> bool | None:
        """Dynamo 1.6.1 does not say."""
        return None

    async def flush_cache(self) -> None:
        """``flush_cache``: the prefix cache."""
        await self._engine("flush_cache")

    async def update_weights(self, update: WeightUpdate) -> None:
        """``update_weights_from_disk`` or ``update_weights_from_distributed``; the worker must be paused."""
        body: dict[str, Any] = {**update.options, "weight_version": update.version}
        if update.engine_rpc is not None:
            body["engine_rpc"] = update.engine_rpc
        try:
            if update.path is not None:
                await self._engine("update_weights_from_disk", body | {"model_path": update.path})
            else:
                await self._engine("update_weights_from_distributed", body)
        except ServerError as error:
            if error.status == 200 and any(said in str(error) for said in _REFUSALS):
                raise refused(error) from None
            raise

    def _make_sampler(self, url: str, options: HttpOptions) -> None:
        """None: the system server does not sample."""

    async def model_root(self) -> str | None:
        """None: the frontend does not say."""
        return None

    async def init_weight_group(self, group: WeightGroup) -> None:
        """``init_weights_update_group``; its ``init_broadcaster`` counts inference ranks only."""
        body = {
            "engine_rpc": "init_broadcaster",
            "host": group.host,
            "port": group.port,
            "rank_offset": group.rank_offset - group.trainer_ranks,
            "inference_world_size": group.world_size - group.trainer_ranks,
            "timeout": group.timeout,
        }
        await self._engine("init_weights_update_group", {**body, **group.options})

    async def destroy_weight_group(self) -> None:
        """``destroy_weights_update_group``."""
        await self._engine("destroy_weights_update_group")

    async def weight_version(self) -> str | None:
        """``get_weight_version``; None until one is declared."""
        answer = await self._engine("get_weight_version")
        return version_text(answer.get("version")) if answer.get("version_declared") else None

    async def world_size(self) -> int | None:
        """As discovery listed it."""
        return self._world_size

    async def adapters(self) -> Mapping[str, str | None] | None:
        """``GET /v1/loras`` of the system server, which lists names and no paths."""
        try:
            answer = await self._server.json("GET", "/v1/loras")
        except ServerError:
            return None
        names = answer.get("loras") if isinstance(answer, dict) else None
        return dict.fromkeys(names) if isinstance(names, dict) else None

    async def _load(self, name: str, path: str) -> None:
        """``load_lora`` by file URI. Of a name in use it says ``success`` as well, and "already loaded".

        With ``DYN_LORA_HOTSWAP_ENABLED`` the worker replaces the adapter and says ``hot_swap``.
        """
        answer = await self._engine("load_lora", {"lora_name": name, "source": {"uri": Path(path).as_uri()}})
        refusal = self._server.refusal("/engine/load_lora", str(answer.get("message")))
        in_use = name_in_use(refusal)
        if in_use is not None and answer.get("hot_swap") is not True:
            raise in_use

    async def unload_lora(self, name: str) -> None:
        """``unload_lora``."""
        await self._engine("unload_lora", {"lora_name": name})

    async def abort(self, request_id: str | None = None) -> None:
        """``abort_request``; there is no route that aborts all but a pause."""
        if request_id is None:
            raise NotImplementedError("Dynamo aborts all requests with pause(mode='abort') only")
        await self._engine("abort_request", {"request_id": request_id})

    async def _engine(self, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        path = f"/engine/{route}"
        answer = await self._post(path, body)
        if not isinstance(answer, dict) or answer.get("status") not in ("ok", "success"):
            raise self._server.refusal(path, f"neither ok nor an error: {str(answer)[:200]}")
        return answer
