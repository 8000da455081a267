"""vLLM's own RL routes (``VLLM_SERVER_DEV_MODE=1``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dynamo_tito._errors import (
    BadRequestError,
    EngineError,
    ServerError,
    TitoError,
    TransportError,
)

from .adapters import AdapterAdmin, name_in_use
from .base import rank_count, version_text

if TYPE_CHECKING:
    from dynamo_tito._config import Backend
    from dynamo_tito.control._types import PauseMode, WeightGroup, WeightUpdate


class VllmAdmin(AdapterAdmin):
    """One stock vLLM server.

    Weights from disk are ``reload_weights`` by ``/collective_rpc``; by collective they are the three steps of vLLM's
    weight transfer, whose ``update_info`` is :attr:`WeightUpdate.options`.
    """

    backend: ClassVar[Backend] = "vllm"
    _load_route: ClassVar[str] = "/v1/load_lora_adapter"
    _session_open = False

    async def pause(self, mode: PauseMode = "keep", *, clear_cache: bool = False) -> None:
        """``POST /pause``, which reads its query."""
        await self._post("/pause", mode=mode, clear_cache=str(clear_cache).lower())

    async def resume(self) -> None:
        """``POST /resume``."""
        await self._post("/resume")

    async def is_paused(self) -> bool | None:
        """``GET /is_paused``."""
        paused = await self._ask("/is_paused", "is_paused")
        return paused if isinstance(paused, bool) else None

    async def flush_cache(self) -> None:
        """The prefix cache with the store of a KV connector, the multimodal and the encoder cache.

        ``POST /reset_prefix_cache?reset_external=true`` is false with 200 while requests hold blocks, which are then
        preempted; ``POST /reset_mm_cache``; ``POST /reset_encoder_cache``. What a server lacks is left out.
        """
        try:
            await self._post_if_there("/reset_prefix_cache", reset_external="true")
        except ServerError as error:
            if error.status != 200:
                raise
            await self._post("/reset_prefix_cache", reset_external="true", reset_running_requests="true")
        await self._post_if_there("/reset_mm_cache")
        await self._post_if_there("/reset_encoder_cache")

    async def update_weights(self, update: WeightUpdate) -> None:
        """From disk or by collective, then the version."""
        if self._session_open:
            await self._close_session()
        if update.path is None:
            await self._transfer(update)
            return
        await self._rpc(update.engine_rpc or "reload_weights", {"weights_path": update.path, **update.options})
        try:
            await self._post("/update_weight_version", {"new_version": update.version})
        except ServerError as error:
            raise _loaded(error) from error

    async def _transfer(self, update: WeightUpdate) -> None:
        """Start, update, finish. A session that was left open is finished first: a second start is refused."""
        self._session_open = True
        try:
            await self._post("/start_weight_update")
        except ServerError as error:
            if (error.status or 0) < 500 or not await self._close_session():
                self._session_open = False
                raise
            self._session_open = True
            await self._post("/start_weight_update")
        try:
            await self._post("/update_weights", {"update_info": dict(update.options)})
            await self._post("/finish_weight_update", {"weight_version": update.version})
        except ServerError as error:
            await self._close_session()
            raise _loaded(error) from error
        except TitoError:
            await self._close_session()
            raise
        self._session_open = False

    async def _close_session(self) -> bool:
        """Finish the session of a transfer that broke off, without a version; whether there was one."""
        try:
            await self._post("/finish_weight_update")
        except ServerError:
            self._session_open = False
            return False
        except TransportError:
            return False
        self._session_open = False
        return True

    async def weight_checksums(self) -> Mapping[str, str] | None:
        """``POST /weight_checker {"action": "checksum"}`` of vLLM 0.32 and later: SHA-256 of each parameter."""
        try:
            answer = await self._post_if_there("/weight_checker", {"action": "checksum"})
        except BadRequestError:
            return None
        sums = answer.get("checksums") if isinstance(answer, dict) else None
        return {str(name): str(digest) for name, digest in sums.items()} if isinstance(sums, dict) and sums else None

    async def init_weight_group(self, group: WeightGroup) -> None:
        """``POST /init_weight_transfer_engine``."""
        info = {
            "master_address": group.host,
            "master_port": group.port,
            "rank_offset": group.rank_offset,
            "world_size": group.world_size,
        }
        await self._post("/init_weight_transfer_engine", {"init_info": {**info, **group.options}})

    async def destroy_weight_group(self) -> None:
        """``POST /shutdown_weight_transfer_engine``; vLLM below 0.33 has none."""
        await self._post("/shutdown_weight_transfer_engine")

    async def weight_version(self) -> str | None:
        """``GET /weight_info``."""
        return version_text(await self._ask("/weight_info", "weight_version"))

    async def world_size(self) -> int | None:
        """``GET /get_world_size``."""
        return rank_count(await self._ask("/get_world_size", "world_size"))

    async def _load(self, name: str, path: str) -> None:
        """``POST /v1/load_lora_adapter``, without ``load_inplace``; needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING``."""
        try:
            await self._post(self._load_route, {"lora_name": name, "lora_path": path})
        except ServerError as error:
            # The files may not be visible yet on a shared file system.
            error.retryable = error.retryable or "No adapter found" in str(error)
            raise name_in_use(error) or error from None

    async def unload_lora(self, name: str) -> None:
        """``POST /v1/unload_lora_adapter``."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def abort(self, request_id: str | None = None) -> None:
        """``POST /abort_requests``; the engine's ids carry the route's prefix, so each is tried."""
        ids = [] if request_id is None else [f"generate-tokens-{request_id}", f"chatcmpl-{request_id}", request_id]
        await self._post("/abort_requests", {"request_ids": ids})

    async def _rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        answer = await self._post("/collective_rpc", {"method": method, "kwargs": kwargs})
        results = answer.get("results") if isinstance(answer, dict) else None
        if results is not None and any(result is not None for result in results):
            raise self._server.refusal("/collective_rpc", f"{method} answered {str(results)[:200]} instead of nothing")


def _loaded(error: ServerError) -> EngineError:
    """The error of a later step: weights were changed already, whatever it says of its own request."""
    return EngineError(f"weights were loaded, at least in part, when it failed: {error}", status=error.status)


class PrimeVllmAdmin(VllmAdmin):
    """prime-rl's server: vLLM with routes of its own for weights, which report no version.

    Its ``/load_lora_adapter`` also resets the prefix cache.
    """

    backend: ClassVar[Backend] = "prime"
    _load_route: ClassVar[str] = "/load_lora_adapter"

    async def update_weights(self, update: WeightUpdate) -> None:
        """``POST /update_weights {"weight_dir"}``: a directory, or null to receive by collective."""
        await self._post("/update_weights", {"weight_dir": update.path, **update.options})

    async def init_weight_group(self, group: WeightGroup) -> None:
        """``POST /init_broadcaster``, which counts inference ranks only."""
        body = {
            "host": group.host,
            "port": group.port,
            "rank_offset": group.rank_offset - group.trainer_ranks,
            "inference_world_size": group.world_size - group.trainer_ranks,
            "timeout": group.timeout,
        }
        await self._post("/init_broadcaster", {**body, **group.options})

    async def destroy_weight_group(self) -> None:
        """There is no such route."""
        raise NotImplementedError("prime-rl's server leaves a weight group only when it ends")
