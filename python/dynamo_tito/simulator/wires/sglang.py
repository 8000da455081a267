"""SGLang 0.5.23: the native /generate route, and administration."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG001, ARG002, D102

from __future__ import annotations

import time
from typing import Any

from dynamo_tito.simulator.app import Route
from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.response import Response

from .common import integers
from .metrics import metrics
from .sglang_chat import SglangChat

__all__ = ["SglangApp"]


class SglangApp(SglangChat):
    """`python -m sglang.launch_server --enable-return-routed-experts`."""

    def add_routes(self) -> None:
        self.route("POST PUT", "/generate", self.native)
        self.route("POST", "/v1/chat/completions", self.chat)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/model_info", self.model_info)
        self.route("GET", "/health", self.health)
        self.route("GET", "/metrics", self.metrics)
        self.route("POST", "/tokenize", self.tokenize)
        self.route("POST", "/detokenize", self.detokenize)
        self.route("POST", "/abort_request", self.abort_request)
        self.route("POST", "/pause_generation", self.pause_generation)
        self.route("POST", "/continue_generation", self.continue_generation)
        self.route("GET POST", "/flush_cache", self.flush_cache)
        self.route("POST", "/update_weight_version", self.update_weight_version)
        self.route("POST", "/weights_checker", self.weights_checker)
        self.route("POST", "/load_lora_adapter", self.load_adapter)
        self.route("POST", "/unload_lora_adapter", self.unload_adapter)
        self.route(
            "POST", "/update_weights_from_disk", self._weights("model_path", "Succeeded to update model weights.")
        )
        self.route(
            "POST", "/update_weights_from_distributed", self._weights("names", "Succeeded to update parameter online.")
        )
        self.route(
            "POST",
            "/init_weights_update_group",
            self._group("Succeeded to initialize custom process group.", present=True),
        )
        self.route(
            "POST",
            "/destroy_weights_update_group",
            self._group("Succeeded to destroy custom process group.", present=False),
        )

    def failure(self, call: Call, error: EngineError) -> Response:
        return self.reply({"error": {"message": error.message or "injected fault"}}, error.status, error.headers)

    def stream_error(self, call: Call, error: EngineError) -> dict[str, Any]:
        return {
            "error": {"message": error.message or "injected fault", "type": "invalid_request_error", "code":
            error.status, "retryable": False},
        }  # fmt: skip

    def no_route(self, call: Call) -> Response:
        return self.reply({"detail": "Not Found"}, 404)

    def wrong_method(self, allowed: Any) -> Response:
        return self.reply({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(allowed)})

    async def native(self, call: Call) -> Response:
        document = self.document(call)
        if not call.streams(document):
            return await self.whole(call, document)
        try:
            return await self.events(call, document, deltas=self.engine.config.incremental_streaming_output)
        except EngineError as error:
            # The answer has begun before the request is looked at.
            return self.failed_stream(call, error)

    async def chat(self, call: Call) -> Response:
        return await self.answer_chat(call, self.document(call))

    def document(self, call: Call) -> dict[str, Any]:
        """The request's JSON object; an empty body is an empty one.

        Raises:
            EngineError: it is something else.
        """
        try:
            document = call.request.json() if call.request.body else {}
        except ValueError as error:
            raise EngineError(400, f"JSON decode error: {error}") from None
        if not isinstance(document, dict):
            raise EngineError(400, "Input should be a valid dictionary")
        return document

    # --- what it serves ---

    async def metrics(self, call: Call) -> Response:
        return metrics(self.engine, "sglang")

    async def health(self, call: Call) -> Response:
        return Response(200, b"", None)

    async def models(self, call: Call) -> Response:
        config = self.engine.config
        card = {
            "id": config.model, "object": "model", "created": int(time.time()), "owned_by": "sglang", "root":
            config.model, "parent": None, "max_model_len": config.max_model_len,
        }  # fmt: skip
        adapters = [
            card | {"id": name, "root": path, "parent": config.model, "max_model_len": None}
            for name, path in self.engine.admin.adapters.items()
        ]
        return self.reply({"object": "list", "data": [card, *adapters]})

    async def model_info(self, call: Call) -> Response:
        config = self.engine.config
        return self.reply(
            {
                "model_path": config.model,
                "tokenizer_path": config.model,
                "is_generation": True,
                "weight_version": self._version(),
            }
        )

    async def tokenize(self, call: Call) -> Response:
        tokens = self.engine.tokenizer.encode(self.document(call).get("prompt", ""))
        return self.reply({"tokens": tokens, "count": len(tokens), "max_model_len": self.engine.config.max_model_len})

    async def detokenize(self, call: Call) -> Response:
        return self.reply({"text": self.engine.tokenizer.decode(integers(self.document(call), "tokens"))})

    # --- administration ---

    def _version(self) -> str:
        return str(self.engine.admin.version)

    async def abort_request(self, call: Call) -> Response:
        body = self.document(call)
        if body.get("abort_all"):
            self.engine.abort()
        elif body.get("rid"):
            # Every request whose id begins with this one: aborting r1 aborts r10 too.
            self.engine.abort(body["rid"], prefix=True)
        return Response(200, b"", None)

    async def pause_generation(self, call: Call) -> Response:
        mode = self.document(call).get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise EngineError(400, f"Invalid mode {mode!r}")
        await self.engine.pause("abort" if mode == "abort" else "keep")
        return self.reply({"message": "Generation paused successfully.", "status": "ok"})

    async def continue_generation(self, call: Call) -> Response:
        self.engine.admin.resume()
        return self.reply({"message": "Generation continued successfully.", "status": "ok"})

    async def flush_cache(self, call: Call) -> Response:
        if self.engine.admin.in_flight:
            return Response(
                400, b"Cache not flushed because there are pending requests.\n", "text/plain; charset=utf-8"
            )
        self.engine.admin.cache_flushes += 1
        return Response(200, b"Cache flushed.\n", "text/plain; charset=utf-8")

    async def update_weight_version(self, call: Call) -> Response:
        body = self.document(call)
        if body.get("abort_all_requests", True):
            self.engine.abort()
        self.engine.admin.name_version(body.get("new_version"))
        return self.reply(
            {
                "success": True,
                "message": f"Weight version updated to {body.get('new_version')}",
                "new_version": body.get("new_version"),
            }
        )

    async def weights_checker(self, call: Call) -> Response:
        if self.document(call).get("action") != "checksum":
            return self.reply({"success": False, "message": "Unsupported action"}, 400)
        ranks = [{"checksums": self.engine.admin.checksums()} for _ in range(self.engine.config.world_size)]
        return self.reply({"success": True, "message": "", "ranks": ranks})

    async def load_adapter(self, call: Call) -> Response:
        body = self.document(call)
        if not body.get("lora_name") or not body.get("lora_path"):
            raise EngineError(400, "lora_name and lora_path are required")
        if body["lora_name"] in self.engine.admin.adapters:
            said = f"Failed to load LoRA adapter {body['lora_name']} because it is already loaded"
            return self.reply({"success": False, "error_message": said}, 400)
        self.engine.admin.adapters[body["lora_name"]] = body["lora_path"]
        return self.reply({"success": True, "error_message": None, "loaded_adapters": self.engine.admin.adapters})

    async def unload_adapter(self, call: Call) -> Response:
        name = str(self.document(call).get("lora_name"))
        if self.engine.admin.adapters.pop(name, None) is None:
            message = f"LoRA adapter {name} is not loaded"
            return self.reply({"success": False, "error_message": message}, 400)
        return self.reply({"success": True, "error_message": None, "loaded_adapters": self.engine.admin.adapters})

    def _weights(self, required: str, message: str) -> Route:
        async def handle(call: Call) -> Response:
            body = self.document(call)
            if required not in body:
                return self.reply({"success": False, "message": f"{required} is required"}, 400)
            try:
                self.engine.admin.load(
                    body.get("weight_version"), source=str(body[required]), flush=body.get("flush_cache", True)
                )
            except EngineError as error:
                return self.reply({"success": False, "message": error.message}, 400)
            return self.reply({"success": True, "message": message})

        return handle

    def _group(self, message: str, *, present: bool) -> Route:
        async def handle(call: Call) -> Response:
            self.engine.admin.weight_group = present
            return self.reply({"success": True, "message": message})

        return handle
