"""NVIDIA Dynamo's frontend: chat, completions and /inference/v1/generate, as recorded from it."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.contents import UNFILLED
from dynamo_tito.simulator.encode import dumps, f32_text, f32_wide_text, ids
from dynamo_tito.simulator.response import Framing, Response

from .dynamo_answers import openai_reason, usage
from .dynamo_request import read_chat, read_completions, read_generate, read_native
from .dynamo_stream import DynamoStreams
from .sglang_generate import SglangGenerate

__all__ = ["DynamoApp"]

GENERATE, NATIVE = "/inference/v1/generate", "/generate"

_FLAT_TYPES = {
    400: "Bad Request",
    404: "Not Found",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
# Finish reasons of the frontend, by those of the engine.
_FLAT_MESSAGES = {400: "Invalid request", 499: "Request cancelled"}
_GENERATE_ERRORS = {
    400: ("invalid_request_error", "Invalid request"),
    404: ("not_found", "Not found"),
    429: ("rate_limit_exceeded", "Too many requests"),
    499: ("request_cancelled", "request was cancelled"),
    501: ("not_implemented", "not implemented"),
    503: ("service_unavailable", "Service temporarily unavailable"),
}
_STREAM_ERRORS = {status: error for status, error in _GENERATE_ERRORS.items() if status in (400, 404, 429, 503)}


class DynamoApp(DynamoStreams, SglangGenerate):
    """The OpenAI routes, the token route, SGLang's own if it is enabled, and the list of models."""

    framing: ClassVar[Framing] = "chunked"
    events_type: ClassVar[str] = "text/event-stream"
    events_headers: ClassVar[Mapping[str, str]] = {"cache-control": "no-cache"}

    def add_routes(self) -> None:
        self.route("POST", "/v1/chat/completions", self.chat)
        self.route("POST", "/v1/completions", self.completions)
        self.route("POST", GENERATE, self.generate)
        if self.engine.config.sglang_generate:
            self.route("POST", NATIVE, self.native)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/health", self.health)
        self.route("GET", "/live", self.live)
        self.route("GET", "/dynamo_tito/engine", self.addresses)

    def uuid(self, call: Call) -> str:
        """The id that a header names, if it is one."""
        named = call.request.headers.get("x-dynamo-request-id", "")
        try:
            UUID(named)
        except ValueError:
            return super().uuid(call)
        return named

    def finish(self, call: Call, response: Response) -> None:
        if "x-request-id" in call.request.headers:
            response.headers["x-request-id"] = call.request.headers["x-request-id"]

    async def handle(self, call: Call) -> Response:
        path = call.request.path
        if path.startswith("/v1/models/"):
            return await self.one_model(call)
        media = call.request.headers.get("content-type", "").split(";")[0].strip()
        if call.request.method == "POST" and "POST" in (self.find(path) or ()) and media != "application/json":
            return self._unsupported_media(path)
        return await super().handle(call)

    # --- errors ---

    def failure(self, call: Call, error: EngineError) -> Response:
        if call.record.asked_stream and error.kind in ("worker", "overlong"):
            return self.failed_stream(call, error)
        if call.request.path == NATIVE:
            return self._native_failure(error)
        status, headers = error.status, error.headers
        if error.kind == "syntax" and call.request.path == GENERATE:
            text = f"Failed to parse the request body as JSON: {error.message}"
            return Response(status, text.encode(), "text/plain; charset=utf-8", framing=self.framing)
        message = error.message
        if error.kind == "overlong":
            message = ""  # the frontend drops the message of the worker
        if error.kind == "syntax":
            message = f"Failed to deserialize the JSON body into the target type: {message}"
        if call.request.path == GENERATE and error.kind not in ("deserialize", "not_ready", "route"):
            kind, default = _GENERATE_ERRORS.get(status, ("internal_error", "internal server error"))
            return self.reply({"error": {"message": message or default, "type": kind, "code": status}}, status, headers)
        default = _FLAT_MESSAGES.get(status, "Internal server error")
        flat = {"message": message or default, "type": _FLAT_TYPES.get(status, "Error"), "code": status}
        return self.reply(flat, status, headers)

    def stream_error(self, call: Call, error: EngineError) -> dict[str, Any]:
        if call.request.path == NATIVE:
            return self._native_error(error)
        kind, default = _STREAM_ERRORS.get(error.status, ("internal_server_error", "Internal server error"))
        return {"error": {"message": error.message or default, "type": kind, "code": error.status}}

    def _native_failure(self, error: EngineError) -> Response:
        if error.kind == "deserialize":
            kind = _FLAT_TYPES[error.status]
            flat = {"object": "error", "message": error.message, "type": kind, "param": None, "code": error.status}
            return self.reply(flat, error.status, error.headers)
        return self.reply(self._native_error(error), error.status, error.headers)

    @staticmethod
    def _native_error(error: EngineError) -> dict[str, Any]:
        # What fails in the worker is unavailable there, whatever it was.
        default = _STREAM_ERRORS[503 if error.status >= 500 else 400][1]
        return {"error": {"message": error.message or default}}

    def no_route(self, call: Call) -> Response:
        request = call.request
        return self.failure(call, EngineError(404, f"Route not found: {request.method} {request.path}", kind="route"))

    def _unsupported_media(self, path: str) -> Response:
        if path == GENERATE:
            text = b"Expected request with `Content-Type: application/json`"
            return Response(415, text, "text/plain; charset=utf-8", framing=self.framing)
        message = "Expected request with Content-Type application/json"
        return self.reply({"message": message, "type": _FLAT_TYPES[415], "code": 415}, 415)

    @property
    def not_ready(self) -> str:
        return (
            f"Model `{self.engine.config.model}` is not ready to serve requests yet. The deployment may still be "
            "starting up or is not fully provisioned. Please retry shortly."
        )

    # --- what it serves ---

    def _card(self) -> dict[str, Any]:
        config = self.engine.config
        created = int(time.time())
        return {
            "id": config.model, "object": "model", "created": created, "owned_by": "nvidia", "context_window":
            config.max_model_len,
        }  # fmt: skip

    async def models(self, call: Call) -> Response:
        return Response(200, dumps({"object": "list", "data": [self._card()]}))

    async def one_model(self, call: Call) -> Response:
        if call.request.path.removeprefix("/v1/models/") != self.engine.config.model:
            return self.failure(call, EngineError(404, "Model not found"))
        return Response(200, dumps(self._card()))

    async def health(self, call: Call) -> Response:
        return self.reply(
            {
                "status": "healthy",
                "endpoints": ["dyn://dynamo.backend.generate", "dyn://dynamo.backend.rl"],
                "instances": [],
            }
        )

    async def addresses(self, call: Call) -> Response:
        """Where the embedded engine listens; no route of Dynamo's."""
        return self.reply({"rl_url": self.engine.rl_url, "system_url": self.engine.system_url})

    async def live(self, call: Call) -> Response:
        return self.reply({"status": "live", "message": "Service is live"})

    # --- chat and completions ---

    async def chat(self, call: Call) -> Response:
        engine = self.engine
        wanted = read_chat(call.request.body, engine.config, engine.tokenizer)
        if wanted.stream is not None and call.fault_of("unary") is None:
            return await self.stream_chat(call, wanted, wanted.stream)
        samples = await engine.sample(call, wanted.asks[0])
        document: dict[str, Any] = {
            "id": f"chatcmpl-{self.uuid(call)}",
            "choices": [
                {
                    "index": sample.index,
                    "message": {"content": self.text(sample), "refusal": None, "role": "assistant"},
                    "finish_reason": openai_reason(sample),
                    "logprobs": self.chat_logprobs(sample, wanted),
                }
                for sample in samples
            ],
            "created": int(time.time()),
            "model": engine.config.model,
            "object": "chat.completion",
            "usage": usage(samples, {"cached_tokens": 0}),
        }
        if wanted.prompt_logprobs is not None:
            document["prompt_logprobs"] = self.prompt_logprobs(
                call, samples[-1], wanted.prompt_logprobs, f32_text, shuffled=True
            )
        if extension := await self.extension(call, wanted, samples[-1]):
            document["nvext"] = extension
        return self.reply(document)

    async def completions(self, call: Call) -> Response:
        engine = self.engine
        wanted = read_completions(call.request.body, engine.config, engine.tokenizer)
        if wanted.stream is not None and call.fault_of("unary") is None:
            return await self.stream_completions(call, wanted, wanted.stream)
        samples = await engine.sample(call, *wanted.asks)
        choices: list[dict[str, Any]] = []
        for index, sample in enumerate(samples):
            choice: dict[str, Any] = {"text": self.text(sample), "index": index}
            if wanted.logprobs is not None:
                choice["logprobs"] = self.text_logprobs(sample, wanted.logprobs)
            choice["finish_reason"] = openai_reason(sample)
            choices.append(choice)
        document: dict[str, Any] = {
            "id": f"cmpl-{self.uuid(call)}",
            "choices": choices,
            "created": int(time.time()),
            "model": engine.config.model,
            "system_fingerprint": None,
            "object": "text_completion",
            "usage": usage(samples, {"audio_tokens": None, "cached_tokens": 0}),
        }
        if extension := await self.extension(call, wanted, samples[-1]):
            document["nvext"] = extension
        return self.reply(document)

    # --- SGLang's /generate ---

    async def native(self, call: Call) -> Response:
        document = read_native(call.request.body)
        if not document.get("stream") and self.engine.config.dynamo_version == "1.6.1":
            raise EngineError(501, "non-streaming SGLang generate requests are not implemented; set stream=true")
        return await (
            self.events(call, document, deltas=True) if call.streams(document) else self.whole(call, document)
        )

    # --- /inference/v1/generate ---

    async def generate(self, call: Call) -> Response:
        engine = self.engine
        wanted = read_generate(call.request.body, engine.config)
        samples = await engine.sample(call, wanted.asks[0])
        if any(sample.finish_reason in ("abort", "cancelled") for sample in samples):
            raise EngineError(499, "")
        choices = [
            {
                "index": sample.index,
                "token_ids": ids(sample.token_ids),
                "logprobs": None if wanted.logprobs is None else self.token_logprobs(sample, wanted.logprobs),
                "finish_reason": sample.finish_reason,
                "routed_experts": await self.routing(call, sample, wanted),
                **UNFILLED,
            }
            for sample in samples
        ]
        prompt_logprobs = None
        if wanted.prompt_logprobs is not None:
            prompt_logprobs = self.prompt_logprobs(
                call, samples[0], wanted.prompt_logprobs, f32_wide_text, shuffled=True
            )
        document = {
            "request_id": call.record.key if "x-request-id" in call.request.headers else self.uuid(call),
            "choices": choices,
            "prompt_logprobs": prompt_logprobs,
            "kv_transfer_params": None,
        }
        return self.reply(document)
