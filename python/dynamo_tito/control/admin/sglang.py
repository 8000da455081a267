"""SGLang's administration routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dynamo_tito._errors import EngineError, ServerError

from .adapters import AdapterAdmin, name_in_use
from .base import StaleCacheError, version_text

if TYPE_CHECKING:
    from dynamo_tito._config import Backend
    from dynamo_tito.control._types import PauseMode, WeightGroup, WeightUpdate

_MODES: dict[PauseMode, str] = {"keep": "retract", "abort": "abort"}


_UPDATED = "Weights were updated, but the cache was not flushed"
"""SGLang 0.5.23, with 400, where requests were still running or queued (sglang#14062)."""


class SglangAdmin(AdapterAdmin):
    """One SGLang server.

    ``keep`` is SGLang's ``retract``: requests go back to the queue and are computed anew. ``in_place`` would leave them
    in the cache, which can then be neither flushed nor updated under.
    """

    backend: ClassVar[Backend] = "sglang"
    _group = "weights"

    async def pause(self, mode: PauseMode = "keep", *, clear_cache: bool = False) -> None:
        """``POST /pause_generation``."""
        if mode not in _MODES:
            raise NotImplementedError("SGLang pauses with mode 'keep' or 'abort', it does not wait")
        await self._post("/pause_generation", {"mode": _MODES[mode]})
        if clear_cache:
            await self.flush_cache()

    async def resume(self) -> None:
        """``POST /continue_generation``."""
        await self._post("/continue_generation")

    async def is_paused(self) -> bool | None:
        """SGLang does not say."""
        return None

    async def flush_cache(self) -> None:
        """``POST /flush_cache``, which answers 400 while requests drain, then the storage of a hierarchical cache."""
        try:
            await self._post("/flush_cache")
        except ServerError as error:
            error.retryable = error.retryable or error.status == 400
            raise
        if await self._ask("/server_info", "hicache_storage_backend"):
            await self._post_if_there("/hicache/storage-backend/clear")

    async def update_weights(self, update: WeightUpdate) -> None:
        """``update_weights_from_disk`` or ``update_weights_from_distributed``."""
        body: dict[str, Any] = {**update.options, "weight_version": update.version}
        try:
            if update.path is not None:
                await self._post("/update_weights_from_disk", body | {"model_path": update.path})
            else:
                await self._post("/update_weights_from_distributed", body)
        except ServerError as error:
            if _UPDATED in error.body:
                # The label is moved by a flush that succeeds.
                await self._post_if_there(
                    "/update_weight_version", {"new_version": update.version, "abort_all_requests": False}
                )
                raise StaleCacheError(str(error), status=error.status) from None
            if '"success"' in error.body:
                # The engine's own word, which it also gives when it failed half-way and put the old weights back.
                raise EngineError(str(error), status=error.status, body=error.body.encode()) from None
            raise

    async def weight_checksums(self) -> Mapping[str, str] | None:
        """``POST /weights_checker {"action": "checksum"}``: per rank. None from servers without it."""
        try:
            answer = await self._post("/weights_checker", {"action": "checksum"})
        except ServerError:
            return None
        ranks = answer.get("ranks") if isinstance(answer, dict) else None
        if not isinstance(ranks, list):
            return None
        return {
            f"rank{number}:{name}": str(digest)
            for number, rank in enumerate(ranks) if isinstance(rank, dict)
            for name, digest in (rank.get("checksums") or {}).items()
        } or None  # fmt: skip

    async def init_weight_group(self, group: WeightGroup) -> None:
        """``init_weights_update_group``."""
        self._group = group.name
        body = {
            "master_address": group.host,
            "master_port": group.port,
            "rank_offset": group.rank_offset,
            "world_size": group.world_size,
            "group_name": group.name,
            "backend": "nccl",
        }
        await self._post("/init_weights_update_group", {**body, **group.options})

    async def destroy_weight_group(self) -> None:
        """``destroy_weights_update_group``, of the group that was joined last."""
        await self._post("/destroy_weights_update_group", {"group_name": self._group})

    async def weight_version(self) -> str | None:
        """``GET /model_info``."""
        return version_text(await self._ask("/model_info", "weight_version"))

    async def world_size(self) -> int | None:
        """SGLang does not say in one number."""
        return None

    async def _load(self, name: str, path: str) -> None:
        """``POST /load_lora_adapter``, which answers with the adapters that it holds then."""
        route = "/load_lora_adapter"
        try:
            answer = await self._post(route, {"lora_name": name, "lora_path": path})
        except ServerError as error:
            raise name_in_use(error) or error from None
        held = answer.get("loaded_adapters") if isinstance(answer, dict) else None
        if isinstance(held, dict) and held.get(name) != path:
            raise self._server.refusal(route, f"it said success, but holds {held.get(name)} as {name}, not {path}")

    async def unload_lora(self, name: str) -> None:
        """``POST /unload_lora_adapter``."""
        await self._post("/unload_lora_adapter", {"lora_name": name})

    async def abort(self, request_id: str | None = None) -> None:
        """``POST /abort_request``. SGLang aborts every request whose id begins with this one."""
        await self._post("/abort_request", {"abort_all": True} if request_id is None else {"rid": request_id})
