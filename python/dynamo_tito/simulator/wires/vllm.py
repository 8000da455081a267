"""vLLM's server: what it serves beside sampling, its errors, and the tokenizer routes."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

import json
import time
from typing import Any

from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.response import Response

from .common import integers
from .metrics import metrics
from .vllm_admin import VllmAdminRoutes
from .vllm_errors import bad_field, bad_request, envelope, invalid
from .vllm_request import check_salt
from .vllm_stream import VllmStreams

__all__ = ["VllmApp"]


class VllmApp(VllmStreams, VllmAdminRoutes):
    """The routes of `vllm serve --enable-scale-out` with `VLLM_SERVER_DEV_MODE=1`."""

    def add_routes(self) -> None:
        self.route("POST", "/inference/v1/generate", self.generate)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/health", self.health)
        self.route("GET", "/metrics", self.metrics)
        self.route("POST", "/tokenize", self.tokenize)
        self.route("POST", "/detokenize", self.detokenize)
        self.add_text_routes()
        self.add_admin_routes()

    # --- errors ---

    def failure(self, call: Call, error: EngineError) -> Response:
        refused = error.kind == "late" or (error.kind == "not_ready" and self.since("0.33"))
        if refused and call.record.asked_stream:
            # The engine refuses it when the answer has begun.
            return self.failed_stream(call, error)
        response = self.reply(envelope(error), error.status, error.headers)
        response.hangs_up = error.kind == "unhandled"
        return response

    def no_route(self, call: Call) -> Response:
        return self.reply({"detail": "Not Found"}, 404)

    def wrong_method(self, allowed: Any) -> Response:
        return self.reply({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(allowed)})

    @property
    def not_ready(self) -> str:
        return "Generation is paused. Please retry after it resumes."

    def document(self, call: Call) -> dict[str, Any]:
        """The request's JSON object.

        Raises:
            EngineError: it is none, is not declared as JSON, or names a model that is not served.
        """
        if call.request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise invalid("Unsupported Media Type: Only 'application/json' is allowed", param=None)
        try:
            document = call.request.json()
        except ValueError as error:
            at = f"body.{error.pos}" if isinstance(error, json.JSONDecodeError) else "body"
            line = bad_field("json_invalid", at, "JSON decode error", {}, {"error": str(error)})
            raise invalid(line, param=at) from None
        if not isinstance(document, dict):
            line = bad_field("model_attributes_type", "body", "Input should be a valid dictionary", document)
            raise invalid(line, param="body")
        model = document.get("model")
        if model not in (None, self.engine.config.model, *self.engine.admin.adapters):
            said = f"The model `{model}` does not exist. Valid aliases: {self.engine.config.model}."
            raise EngineError(404, said, param="model")
        check_salt(document.get("cache_salt"))
        return document

    # --- what it serves ---

    async def metrics(self, call: Call) -> Response:
        return metrics(self.engine, "vllm")

    async def health(self, call: Call) -> Response:
        return Response(200, b"", None)

    async def models(self, call: Call) -> Response:
        config = self.engine.config
        created = int(time.time())
        card = {"object": "model", "created": created, "owned_by": "vllm"}
        names = [
            (config.model, config.model, None),
            *((n, source, config.model) for n, source in self.engine.admin.adapters.items()),
        ]
        data = [
            {
                "id": name,
                **card,
                "root": root,
                "parent": parent,
                "max_model_len": None if parent else config.max_model_len,
                "permission": [_permission(self.uuid(call), created)],
            }
            for name, root, parent in names
        ]
        return self.reply({"object": "list", "data": data})

    async def tokenize(self, call: Call) -> Response:
        document = self.document(call)
        tokenizer = self.engine.tokenizer
        if "messages" in document:
            generation = document.get("add_generation_prompt", True)
            continued = document.get("continue_final_message", False)
            if generation and continued:
                raise bad_request("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
            tokens = tokenizer.apply_chat_template(
                document["messages"], add_generation_prompt=generation, continue_final_message=continued
            )
        else:
            tokens = tokenizer.encode(document.get("prompt", ""))
        strings = (
            [json.loads(tokenizer.piece(token)[0]) for token in tokens] if document.get("return_token_strs") else None
        )
        limit = self.engine.config.max_model_len
        return self.reply({"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": strings})

    async def detokenize(self, call: Call) -> Response:
        return self.reply({"prompt": self.engine.tokenizer.decode(integers(self.document(call), "tokens"))})


def _permission(name: str, created: int) -> dict[str, Any]:
    """What a card allows: always the same."""
    return {
        "id": f"modelperm-{name}", "object": "model_permission", "created": created, "allow_create_engine": False,
        "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
        "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
    }  # fmt: skip
