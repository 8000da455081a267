"""The RL routes of vLLM's server: pause, weights, versions, adapters, and its configuration."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

from dynamo_tito.simulator.admin import PauseMode
from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.response import Response

from .vllm_errors import bad_field, http_error, invalid, worker_failed

__all__ = ["VllmAdminRoutes"]

MODES: dict[str, PauseMode] = {mode: mode for mode in get_args(PauseMode)}
#: Methods of the worker that `/collective_rpc` may call.
RPC_METHODS = frozenset(("reload_weights", "update_weights_from_path", "update_weights", "init_broadcaster"))
_NO_TRANSFER = "Weight transfer not configured. Please set weight_transfer_config to enable weight transfer."
_NO_LORA = "LoRA is not enabled. Use --enable-lora to enable LoRA."


class VllmAdminRoutes(App):
    """Mixed into a server: the routes that need `VLLM_SERVER_DEV_MODE=1`."""

    def add_admin_routes(self) -> None:
        self.add_pause_routes()
        self.route("GET", "/version", self.version)
        self.route("GET", "/server_info", self.server_info)
        self.route("GET", "/is_sleeping", self.is_sleeping)
        self.route("POST", "/inference/v1/abort_requests", self.abort_named)
        self.route("POST", "/init_weight_transfer_engine", self._done("Weight transfer initialized", self._init_group))
        self.route(
            "POST", "/shutdown_weight_transfer_engine", self._done("Weight transfer shut down", self._close_group)
        )
        self.route("POST", "/start_weight_update", self._done("Weight update started", self._start_update))
        self.route("POST", "/update_weights", self._done("Weights updated", self._update))
        self.route("POST", "/finish_weight_update", self._done("Weight update finished", self._finish_update))
        self.route("POST", "/update_weight_version", self.update_weight_version)
        self.route("GET", "/weight_info", self.weight_info)
        self.route("POST", "/weight_checker", self.weight_checker)
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
        self.route("POST", "/reset_mm_cache", self._empties("mm"))
        self.route("POST", "/reset_encoder_cache", self._empties("encoder"))

    def admin_body(self, call: Call, *, required: bool = False) -> dict[str, Any]:
        """The JSON object of an administration request; an empty body is an empty object unless one is required."""
        try:
            body = call.request.json() if call.request.body or required else {}
        except ValueError:
            raise http_error(400, "Invalid JSON format") from None
        if not isinstance(body, dict):
            raise http_error(400, "Request body must be a JSON object")
        return body

    async def pause(self, call: Call) -> Response:
        mode = MODES.get(call.request.query.get("mode", "abort"))
        if mode is None:
            modes = "'abort', 'wait' or 'keep'"
            line = bad_field(
                "literal_error",
                "query.mode",
                f"Input should be {modes}",
                call.request.query["mode"],
                {"expected": modes},
            )
            raise invalid(line, param="query.mode")
        await self.engine.pause(mode)
        self.engine.admin.cache_flushes += call.request.query.get("clear_cache", "true").lower() == "true"
        return self.reply({"status": "paused"})

    async def resume(self, call: Call) -> Response:
        self.engine.admin.resume()
        return self.reply({"status": "resumed"})

    async def is_paused(self, call: Call) -> Response:
        return self.reply({"is_paused": self.engine.admin.paused is not None})

    async def abort_requests(self, call: Call) -> Response:
        names = self.admin_body(call, required=True).get("request_ids")
        if not names:
            return self.reply({"status": "aborted", "aborted": self.engine.abort()})
        self._abort(names)
        # The names that were given are counted, not the requests that bore them.
        return self.reply({"status": "aborted", "aborted": len(names)})

    async def abort_named(self, call: Call) -> Response:
        names = self.admin_body(call, required=True).get("request_ids")
        if names is None:
            raise http_error(400, "Missing 'request_ids' in request body")
        self._abort(names)
        return Response(200, b"", None)

    def _abort(self, names: list[str]) -> None:
        for name in names:
            self.engine.abort(name)

    async def reset_prefix_cache(self, call: Call) -> Response:
        # Blocks that running requests hold cannot be reset, unless these are preempted: 200, and false.
        preempt = call.request.query.get("reset_running_requests", "false").lower() == "true"
        free = preempt or self.engine.admin.in_flight == 0
        self.engine.admin.cache_flushes += free
        self.engine.admin.emptied["external"] += (
            free and call.request.query.get("reset_external", "false").lower() == "true"
        )
        return self.reply({"success": free})

    def _empties(self, cache: str) -> Callable[[Call], Awaitable[Response]]:
        async def handle(_: Call) -> Response:
            self.engine.admin.emptied[cache] += 1
            return Response(200, b"", None)

        return handle

    async def weight_checker(self, call: Call) -> Response:
        body = self.admin_body(call)
        sums = {f"dp0:pp0:pcp0:tp0:{name}": digest for name, digest in self.engine.admin.checksums().items()}
        if body.get("action") == "checksum":
            return self.reply({"checksums": sums})
        if body.get("action") != "compare":
            said = "Input should be 'checksum', 'reset' or 'compare'"
            line = bad_field("literal_error", "body.action", said, body.get("action"))
            raise invalid(line, param="body.action")
        baseline = body.get("baseline") or {}
        wrong = sorted(name for name in sums.keys() | baseline.keys() if sums.get(name) != baseline.get(name))
        return self.reply({"match": not wrong, "mismatches": wrong})

    def _done(
        self, message: str, work: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> Callable[[Call], Awaitable[Response]]:
        async def handle(call: Call) -> Response:
            await work(self.admin_body(call))
            return self.reply({"message": message})

        return handle

    def _transfer(self, body: dict[str, Any], required: str | None = None) -> None:
        """What every route of the weight transfer checks first."""
        if required is not None and required not in body:
            where = f"body.{required}"
            raise invalid(bad_field("missing", where, "Field required", None), param=where)
        if not self.engine.config.weight_transfer:
            raise worker_failed("collective_rpc", _NO_TRANSFER)

    async def _init_group(self, body: dict[str, Any]) -> None:
        self._transfer(body, "init_info")
        self.engine.admin.weight_group = True

    async def _close_group(self, body: dict[str, Any]) -> None:
        self.engine.admin.weight_group = False

    async def _start_update(self, body: dict[str, Any]) -> None:
        self._transfer(body)
        if self.engine.admin.updating:
            said = (
                "start_weight_update called while a weight update is already active. Call finish_weight_update first."
            )
            raise worker_failed("collective_rpc", said)
        self.engine.admin.updating = True

    async def _update(self, body: dict[str, Any]) -> None:
        self._transfer(body, "update_info")
        if not self.engine.admin.updating:
            said = "start_weight_update must be called before update_weights."
            raise worker_failed("collective_rpc", said)

    async def _finish_update(self, body: dict[str, Any]) -> None:
        self._transfer(body)
        if not self.engine.admin.updating:
            said = "finish_weight_update called without a matching start_weight_update."
            raise worker_failed("collective_rpc", said)
        self.engine.admin.updating = False
        self.engine.admin.load(
            body.get("weight_version"), source=f"update {self.engine.admin.cache_flushes}", flush=False
        )

    async def update_weight_version(self, call: Call) -> Response:
        body, where = self.admin_body(call), "body.new_version"
        if "new_version" not in body:
            raise invalid(bad_field("missing", where, "Field required", None), param=where)
        version = body["new_version"]
        if not isinstance(version, str):
            line = bad_field("string_type", where, "Input should be a valid string", version)
            raise invalid(line, param=where)
        self.engine.admin.name_version(version)
        return self.reply({"success": True, "new_version": version})

    async def weight_info(self, call: Call) -> Response:
        return self.reply({"weight_version": self.engine.admin.version})

    async def version(self, call: Call) -> Response:
        return self.reply({"version": f"{self.engine.config.vllm_version}.0"})

    async def server_info(self, call: Call) -> Response:
        config = self.engine.config
        text = f"model='{config.model}', max_seq_len={config.max_model_len}"
        settings: Any = {"model_config": {"model": config.model, "max_model_len": config.max_model_len}}
        shown = settings if call.request.query.get("config_format") == "json" else text
        return self.reply({"vllm_config": shown, "vllm_env": {}, "system_env": {}})

    async def is_sleeping(self, call: Call) -> Response:
        return self.reply({"is_sleeping": False})

    async def world_size(self, call: Call) -> Response:
        return self.reply({"world_size": self.engine.config.world_size})

    async def collective_rpc(self, call: Call) -> Response:
        body = self.admin_body(call, required=True)
        method = body.get("method")
        if method is None:
            raise http_error(400, "Missing 'method' in request body")
        if method not in RPC_METHODS:
            raise worker_failed("collective_rpc", f"'CPUWorker' object has no attribute '{method}'")
        arguments = [*(body.get("args") or ()), *(body.get("kwargs") or {}).values()]
        if method in ("reload_weights", "update_weights_from_path"):
            self.engine.admin.load(None, source=str(arguments[0] if arguments else method), flush=False)
        return self.reply({"results": [None] * self.engine.config.world_size})

    async def load_adapter(self, call: Call) -> Response:
        body = self.admin_body(call)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            raise EngineError(400, "Both 'lora_name' and 'lora_path' must be provided.", kind="user")
        if not self.engine.config.lora:
            raise worker_failed("add_lora", _NO_LORA, unhandled=False)
        if name == self.engine.config.model:
            raise EngineError(400, f"The lora adapter '{name}' conflicts with a served base model.", kind="user")
        if name in self.engine.admin.adapters and not body.get("load_inplace"):
            said = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set"
            raise EngineError(400, f"{said} 'load_inplace' to True.", kind="user")
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
