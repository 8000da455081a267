"""prime-rl's server: vLLM with routed experts as objects, chat with `tokens`, and other routes for weights."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: D102

from __future__ import annotations

from typing import Any

from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.config import VllmVersion
from dynamo_tito.simulator.encode import Raw, routing_object
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response

from .vllm import VllmApp
from .vllm_request import missing, read_ids

__all__ = ["PrimeApp"]


class PrimeApp(VllmApp):
    """The dialect of vLLM 0.31 with a `usage`; `collective_rpc` behind three routes."""

    @property
    def version_name(self) -> VllmVersion:
        return "0.31"

    def add_routes(self) -> None:
        super().add_routes()
        self.route("POST", "/v1/chat/completions/tokens", self.chat_tokens)

    def add_admin_routes(self) -> None:
        self.add_pause_routes()
        self.route("POST", "/update_weights", self.update_weights)
        self.route("POST", "/load_lora_adapter", self.load_and_flush)
        self.route("POST", "/v1/load_lora_adapter", self.load_adapter)
        self.route("POST", "/v1/unload_lora_adapter", self.unload_adapter)
        self.route("POST", "/init_broadcaster", self.init_broadcaster)
        self.route("POST", "/collective_rpc", self.collective_rpc)

    def generate_answer(
        self,
        answer: dict[str, Any],
        document: dict[str, Any],
        samples: list[Sample],
        choices: list[dict[str, Any]],
        scored: Raw | None,
    ) -> dict[str, Any]:
        return super().generate_answer(answer, document, samples, choices, scored) | {"usage": self.usage(samples)}

    async def routing(self, call: Call, sample: Sample, start: int) -> Any:
        if not self.engine.routed(sample):
            return None
        return routing_object(await self.engine.rows(call, sample, start), start)

    async def chat_tokens(self, call: Call) -> Response:
        document = self.document(call)
        if "messages" not in document:
            raise missing("messages", document)
        return await self.answer_chat(call, document, read_ids(document, "tokens"))

    async def update_weights(self, call: Call) -> Response:
        body = self.admin_body(call)
        flush = not body.get("skip_prefix_cache_reset", False)
        self.engine.admin.load(None, source=str(body.get("weight_dir")), flush=flush)
        return self.reply({"status": "ok"})

    async def load_and_flush(self, call: Call) -> Response:
        body = self.admin_body(call)
        if not body.get("lora_name") or not body.get("lora_path"):
            raise EngineError(400, "Both 'lora_name' and 'lora_path' must be provided.")
        # The same adapter may be loaded again and again, with newer weights.
        self.engine.admin.adapters[body["lora_name"]] = body["lora_path"]
        self.engine.admin.cache_flushes += 1
        return self.reply({"status": "ok"})

    async def init_broadcaster(self, call: Call) -> Response:
        self.admin_body(call)
        self.engine.admin.weight_group = True
        return self.reply({"status": "ok"})
