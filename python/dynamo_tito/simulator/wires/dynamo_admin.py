"""Dynamo's discovery (`GET /v1/rl/workers`) and the system server of a worker (`POST /engine/<route>`), as recorded."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

from dynamo_tito.simulator.app import App, Route
from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.core import Core
from dynamo_tito.simulator.encode import dumps
from dynamo_tito.simulator.response import Response

from .metrics import metrics

__all__ = ["DiscoveryApp", "SystemApp"]

Verb: TypeAlias = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_TEXT = "text/plain; charset=utf-8"
_NOT_PAUSED = (
    "Worker must be paused via pause_generation() before updating weights. "
    "Call pause_generation() first, then update, then resume_generation()."
)
ROUTES = (
    "abort_request", "destroy_weights_update_group", "flush_cache", "get_weight_version", "init_weights_update_group",
    "liveness_probe", "pause_generation", "resume_generation", "set_weight_version", "update_weights_from_disk",
    "update_weights_from_distributed", "update_weights_from_tensor",
)  # fmt: skip


class DiscoveryApp(App):
    """The workers of the configuration, this engine first."""

    def add_routes(self) -> None:
        self.route("GET", "/v1/rl/workers", self.workers)

    def failure(self, call: Call, error: EngineError) -> Response:
        return Response(error.status, error.message.encode(), _TEXT, error.headers)

    def no_route(self, call: Call) -> Response:
        return Response(404, b"", None)

    async def workers(self, call: Call) -> Response:
        members = [_member(member) for member in self.engine.members]
        return self.reply({"protocol_version": 1, "namespace": "dynamo", "workers": members})


def _member(engine: Core) -> dict[str, Any]:
    """A worker in discovery; one that has stopped is listed with an error."""
    address = engine.url.removeprefix("http://")
    member: dict[str, Any] = {
        "namespace": "dynamo",
        "component": "backend",
        "endpoint": "rl",
        "instance_id": engine.instance_id,
        "transport": {"tcp": f"{address}/{engine.instance_id:x}/dynamo/backend/rl"},
        "request_plane_url": "dyn://dynamo.backend.rl",
    }
    if engine.stopped:
        return member | {
            "model": engine.config.model,
            "routes": [],
            "error": f"Unavailable: TCP connection to {address} failed",
        }
    return member | {
        "system_url": engine.system_url, "model": engine.config.model, "routes": list(ROUTES), "world_size":
        engine.config.world_size,
    }  # fmt: skip


class SystemApp(App):
    """Health and administration of one worker. A failure of logic is a 200 whose status is `error`."""

    not_found: ClassVar[bytes] = b"Route not found"

    def add_routes(self) -> None:
        self.route("GET", "/health", self.health)
        self.route("GET", "/live", self.health)
        self.route("GET", "/metrics", self.metrics)
        self.route("GET", "/v1/loras", self.list_loras)
        verbs: dict[str, Verb] = {name: getattr(self, name) for name in ROUTES}
        verbs["load_lora"], verbs["unload_lora"] = self.load_lora, self.unload_lora
        for name, verb in verbs.items():
            self.route("GET POST", f"/engine/{name}", self._verb(verb))

    def failure(self, call: Call, error: EngineError) -> Response:
        return Response(
            error.status, dumps({"error": "Engine route failed", "message": error.message}), _TEXT, error.headers
        )

    def no_route(self, call: Call) -> Response:
        path = call.request.path
        if path.startswith("/engine/"):
            return Response(404, dumps({"error": "Route not found", "message": f"Route {path} not found"}), _TEXT)
        return Response(404, self.not_found, _TEXT)

    async def metrics(self, call: Call) -> Response:
        return metrics(self.engine, "vllm")

    async def health(self, call: Call) -> Response:
        up = {"status": "ready", "uptime": {"secs": 1, "nanos": 0}, "endpoints": {"rl": "ready", "generate": "ready"}}
        return Response(200, dumps(up), _TEXT)

    def _verb(self, verb: Verb) -> Route:
        async def handle(call: Call) -> Response:
            try:
                body = json.loads(call.request.body or b"{}")
            except ValueError as error:
                return Response(400, dumps({"error": "Invalid JSON", "message": str(error)}), _TEXT)
            return Response(200, dumps(await verb(body if isinstance(body, dict) else {})), _TEXT)

        return handle

    async def liveness_probe(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "alive": True}

    async def pause_generation(self, body: dict[str, Any]) -> dict[str, Any]:
        mode = body.get("mode", "keep")
        if mode not in ("keep", "wait", "abort"):
            return _error(f"Invalid mode '{mode}'; expected keep|wait|abort")
        await self.engine.pause(mode)
        clear = bool(body.get("clear_cache", False))
        self.engine.admin.cache_flushes += clear
        return {"status": "ok", "message": "Engine paused", "mode": mode, "clear_cache": clear}

    async def resume_generation(self, body: dict[str, Any]) -> dict[str, Any]:
        self.engine.admin.resume()
        return {"status": "ok", "message": "Engine resumed"}

    async def flush_cache(self, body: dict[str, Any]) -> dict[str, Any]:
        self.engine.admin.cache_flushes += 1
        return {"status": "ok", "message": "Cache flushed"}

    async def abort_request(self, body: dict[str, Any]) -> dict[str, Any]:
        request_id = body.get("request_id")
        if not request_id:
            return _error("Missing 'request_id' in body")
        self.engine.abort(request_id)
        return {"status": "ok", "request_id": request_id}

    async def update_weights_from_disk(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.engine.admin.paused is None:
            return _error(_NOT_PAUSED)
        if not body.get("model_path"):
            return _error("Missing 'model_path' in body")
        return self._load(body, source=body["model_path"], flush=True)

    async def update_weights_from_distributed(self, body: dict[str, Any]) -> dict[str, Any]:
        unpaused, reset = body.get("allow_unpaused", False), body.get("reset_prefix_cache", True)
        for name, value in (("allow_unpaused", unpaused), ("reset_prefix_cache", reset)):
            if not isinstance(value, bool):
                return _error(f"'{name}' must be a boolean")
        if unpaused and reset:
            return _error(
                "Unpaused weight updates cannot reset the prefix cache. "
                "Set 'reset_prefix_cache' to false or pause generation first."
            )
        if self.engine.admin.paused is None and not unpaused:
            return _error(_NOT_PAUSED)
        return self._load(body, source=str(body.get("weight_path", "distributed")), flush=reset)

    async def update_weights_from_tensor(self, body: dict[str, Any]) -> dict[str, Any]:
        return _error("update_weights_from_tensor is not implemented")

    async def init_weights_update_group(self, body: dict[str, Any]) -> dict[str, Any]:
        self.engine.admin.weight_group = True
        return {"status": "ok", "message": "Weight update group initialized"}

    async def destroy_weights_update_group(self, body: dict[str, Any]) -> dict[str, Any]:
        self.engine.admin.weight_group = False
        return {"status": "ok", "message": "Weight update group destroyed"}

    async def get_weight_version(self, body: dict[str, Any]) -> dict[str, Any]:
        declared = self.engine.admin.version_declared
        return {
            "status": "ok",
            "version": self.engine.admin.version if declared else None,
            "version_declared": declared,
        }

    async def set_weight_version(self, body: dict[str, Any]) -> dict[str, Any]:
        if "weight_version" not in body:
            return _error("Missing 'weight_version' in body")
        self.engine.admin.name_version(body["weight_version"])
        return {"status": "ok", "version": body["weight_version"]}

    async def load_lora(self, body: dict[str, Any]) -> dict[str, Any]:
        name, source = body.get("lora_name"), body.get("source") or {}
        if not name or not source.get("uri"):
            return _error("'lora_name' and 'source.uri' are required in request")
        adapters = self.engine.admin.adapters
        # A loaded name keeps its adapter (DYN_LORA_HOTSWAP_ENABLED is not set).
        said = "already loaded" if name in adapters else "loaded successfully"
        adapters.setdefault(name, source["uri"])
        return {
            "status": "success", "message": f"LoRA adapter '{name}' {said}", "lora_name": name, "lora_id":
            _lora_id(name), "hot_swap": False,
        }  # fmt: skip

    async def unload_lora(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body.get("lora_name")
        if self.engine.admin.adapters.pop(str(name), None) is None:
            return _error(f"LoRA adapter '{name}' not found. Available LoRAs: {[*self.engine.admin.adapters]}")
        return {
            "status": "success", "message": f"LoRA adapter '{name}' unloaded successfully", "lora_name": name,
            "lora_id": _lora_id(str(name)),
        }  # fmt: skip

    async def list_loras(self, call: Call) -> Response:
        loras = {name: _lora_id(name) for name in self.engine.admin.adapters}
        return Response(200, dumps({"status": "success", "loras": loras, "count": len(loras)}))

    def _load(self, body: dict[str, Any], *, source: str, flush: bool) -> dict[str, Any]:
        declared = "weight_version" in body
        try:
            self.engine.admin.load(body["weight_version"] if declared else None, source=source, flush=flush)
        except EngineError as error:
            return _error(error.message)
        return {"status": "ok", "version": body.get("weight_version", "unknown"), "version_declared": declared}


def _lora_id(name: str) -> int:
    """Of the name, as the worker's is; the same after every load."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF or 1


def _error(message: str) -> dict[str, Any]:
    return {"status": "error", "message": message}
