"""The RL routes of vLLM's server: pause, weights, versions, adapters."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, get_args

from dynamo_tito.simulator.admin import PauseMode
from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.http import Response

if TYPE_CHECKING:
    from dynamo_tito.simulator.app import App

    Base = App
else:
    Base = object

__all__ = ["VllmAdminRoutes"]

MODES: dict[str, PauseMode] = {mode: mode for mode in get_args(PauseMode)}


class VllmAdminRoutes(Base):
    """Mixed into a server: the routes that need `VLLM_SERVER_DEV_MODE=1`. Their errors are `{"error": "..."}`."""

    def add_admin_routes(self) -> None:
        self.add_pause_routes()
        self.route("POST", "/init_weight_transfer_engine", self._done("Weight transfer initialized", self._init_group))
        self.route(
            "POST", "/shutdown_weight_transfer_engine", self._done("Weight transfer shut down", self._close_group)
        )
        self.route("POST", "/start_weight_update", self._done("Weight update started", self._start_update))
        self.route("POST", "/update_weights", self._done("Weights updated", self._update))
        self.route("POST", "/finish_weight_update", self._done("Weight update finished", self._finish_update))
        self.route("POST", "/update_weight_version", self.update_weight_version)
        self.route("GET", "/weight_info", self.weight_info)
        self.route("GET", "/get_world_size", self.world_size)
        self.route("POST", "/collective_rpc", self.collective_rpc)
        self.route("POST", "/v1/load_lora_adapter", self.load_adapter)
        self.route("POST", "/v1/unload_lora_adapter", self.unload_adapter)

    def add_pause_routes(self) -> None:
        """The part that prime-rl's server keeps."""
        self.route("POST", "/pause", self.pause)
        self.route("POST", "/resume", self.resume)
        self.route("GET", "/is_paused", self.is_paused)
        self.route("POST", "/abort_requests", self.abort_requests)
        self.route("POST", "/reset_prefix_cache", self.reset_prefix_cache)

    def admin_body(self, call: Call) -> dict[str, Any]:
        """The JSON object of an administration request; an empty body is an empty object."""
        try:
            body = call.request.json() if call.request.body else {}
        except ValueError:
            raise EngineError(400, "Invalid JSON format") from None
        if not isinstance(body, dict):
            raise EngineError(400, "Invalid JSON format")
        return body

    async def pause(self, call: Call) -> Response:
        mode = MODES.get(call.request.query.get("mode", "abort"))
        if mode is None:
            given = call.request.query["mode"]
            return self.reply({"error": f"Invalid mode '{given}'. Must be 'abort', 'wait', or 'keep'"}, 400)
        await self.engine.pause(mode)
        self.engine.admin.cache_flushes += call.request.query.get("clear_cache", "true").lower() == "true"
        return self.reply({"status": "paused"})

    async def resume(self, call: Call) -> Response:
        self.engine.admin.resume()
        return self.reply({"status": "resumed"})

    async def is_paused(self, call: Call) -> Response:
        return self.reply({"is_paused": self.engine.admin.paused is not None})

    async def abort_requests(self, call: Call) -> Response:
        names = self.admin_body(call).get("request_ids") or [None]
        keys = [
            None if name is None else name.removeprefix("generate-tokens-").removeprefix("chatcmpl-") for name in names
        ]
        return self.reply({"status": "aborted", "aborted": sum(self.engine.abort(key) for key in keys)})

    async def reset_prefix_cache(self, call: Call) -> Response:
        # Blocks that running requests hold cannot be reset, unless these are preempted: 200, and false.
        preempt = call.request.query.get("reset_running_requests", "false").lower() == "true"
        free = preempt or self.engine.admin.in_flight == 0
        self.engine.admin.cache_flushes += free
        return self.reply({"success": free})

    def _done(
        self, message: str, work: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> Callable[[Call], Awaitable[Response]]:
        async def handle(call: Call) -> Response:
            await work(self.admin_body(call))
            return self.reply({"message": message})

        return handle

    async def _init_group(self, body: dict[str, Any]) -> None:
        self.engine.admin.weight_group = True

    async def _close_group(self, body: dict[str, Any]) -> None:
        self.engine.admin.weight_group = False

    async def _start_update(self, body: dict[str, Any]) -> None:
        self.engine.admin.updating = True

    async def _update(self, body: dict[str, Any]) -> None:
        if "update_info" not in body:
            raise EngineError(400, "update_info is required")
        if not self.engine.admin.updating:
            raise EngineError(400, "start_weight_update must be called first")

    async def _finish_update(self, body: dict[str, Any]) -> None:
        self.engine.admin.updating = False
        self.engine.admin.load(
            body.get("weight_version"), source=f"update {self.engine.admin.cache_flushes}", flush=False
        )

    async def update_weight_version(self, call: Call) -> Response:
        version = self.admin_body(call).get("new_version")
        if not isinstance(version, str):
            return self.reply({"error": "new_version is required"}, 400)
        self.engine.admin.name_version(version)
        return self.reply({"success": True, "new_version": version})

    async def weight_info(self, call: Call) -> Response:
        return self.reply({"weight_version": self.engine.admin.version})

    async def world_size(self, call: Call) -> Response:
        return self.reply({"world_size": self.engine.config.world_size})

    async def collective_rpc(self, call: Call) -> Response:
        body = self.admin_body(call)
        method = body.get("method")
        if not method:
            return self.reply({"error": "Missing 'method' in request body"}, 400)
        arguments = [*(body.get("args") or ()), *(body.get("kwargs") or {}).values()]
        if method in ("reload_weights", "update_weights_from_path"):
            self.engine.admin.load(None, source=str(arguments[0] if arguments else method), flush=False)
        return self.reply({"results": [None] * self.engine.config.world_size})

    async def load_adapter(self, call: Call) -> Response:
        body = self.admin_body(call)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            raise EngineError(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.engine.admin.adapters and not body.get("load_inplace"):
            raise EngineError(400, f"The lora adapter '{name}' has already been loaded.")
        self.engine.admin.adapters[name] = path
        return Response(
            200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "text/plain; charset=utf-8"
        )

    async def unload_adapter(self, call: Call) -> Response:
        name = self.admin_body(call).get("lora_name")
        if self.engine.admin.adapters.pop(str(name), None) is None:
            raise EngineError(404, f"The lora adapter '{name}' cannot be found.")
        return Response(
            200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "text/plain; charset=utf-8"
        )
