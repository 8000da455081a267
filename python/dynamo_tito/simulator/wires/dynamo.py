"""NVIDIA Dynamo 1.6.1's frontend: chat, completions and /inference/v1/generate, as recorded from it."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.contents import UNFILLED
from dynamo_tito.simulator.encode import (
    Raw,
    array_of,
    dumps,
    f32_text,
    f32_wide_text,
    f64_text,
    ids,
    routing_bare,
    routing_object,
)
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Framing, Response

from .common import Entry, Numbers, entries, prompt_entries, prompt_maps
from .dynamo_request import Wanted, read_chat, read_completions, read_generate

__all__ = ["DynamoApp"]

GENERATE = "/inference/v1/generate"

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
# What the frontend says instead of what the engine said.
_FLAT_MESSAGES = {400: "Invalid request", 499: "Request cancelled"}
_GENERATE_ERRORS = {
    400: ("invalid_request_error", "Invalid request"),
    404: ("not_found", "Not found"),
    429: ("rate_limit_exceeded", "Too many requests"),
    499: ("request_cancelled", "request was cancelled"),
    501: ("not_implemented", "not implemented"),
    503: ("service_unavailable", "Service temporarily unavailable"),
}
# Chat and completions know no abort.
_OPENAI_REASONS = {"abort": "stop", "cancelled": "stop", "eos": "stop"}


class DynamoApp(App):
    """The OpenAI routes, the token route, and the list of models."""

    framing: ClassVar[Framing] = "chunked"

    def add_routes(self) -> None:
        self.route("POST", "/v1/chat/completions", self.chat)
        self.route("POST", "/v1/completions", self.completions)
        self.route("POST", GENERATE, self.generate)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/health", self.health)
        self.route("GET", "/live", self.live)
        self.route("GET", "/dynamo_tito/engine", self.addresses)

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
        status, headers = error.status, error.headers
        if error.kind == "syntax" and call.request.path == GENERATE:
            text = f"Failed to parse the request body as JSON: {error.message}"
            return Response(status, text.encode(), "text/plain; charset=utf-8", framing=self.framing)
        message = error.message
        if error.kind == "overlong":
            message = ""  # the frontend does not pass on what the worker said
        if error.kind == "syntax":
            message = f"Failed to deserialize the JSON body into the target type: {message}"
        if call.request.path == GENERATE and error.kind not in ("deserialize", "not_ready", "route"):
            kind, default = _GENERATE_ERRORS.get(status, ("internal_error", "internal server error"))
            return self.reply({"error": {"message": message or default, "type": kind, "code": status}}, status, headers)
        default = _FLAT_MESSAGES.get(status, "Internal server error")
        flat = {"message": message or default, "type": _FLAT_TYPES.get(status, "Error"), "code": status}
        return self.reply(flat, status, headers)

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
        samples = await engine.sample(call, wanted.asks[0])
        document: dict[str, Any] = {
            "id": f"chatcmpl-{self.uuid(call)}",
            "choices": [
                {
                    "index": sample.index,
                    "message": {"content": self._text(sample), "refusal": None, "role": "assistant"},
                    "finish_reason": _OPENAI_REASONS.get(sample.finish_reason, sample.finish_reason),
                    "logprobs": self._chat_logprobs(sample, wanted),
                }
                for sample in samples
            ],
            "created": int(time.time()),
            "model": engine.config.model,
            "object": "chat.completion",
            "usage": _usage(samples, {"cached_tokens": 0}),
        }
        if wanted.prompt_logprobs is not None:
            document["prompt_logprobs"] = self._prompt_logprobs(
                call, samples[-1], wanted.prompt_logprobs, f32_text, shuffled=True
            )
        if extension := await self._extension(call, wanted, samples):
            document["nvext"] = extension
        return self.reply(document)

    async def completions(self, call: Call) -> Response:
        engine = self.engine
        wanted = read_completions(call.request.body, engine.config, engine.tokenizer)
        samples: list[Sample] = []
        for ask in wanted.asks:
            samples += await engine.sample(call, ask)
        call.record.samples = samples
        choices: list[dict[str, Any]] = []
        for index, sample in enumerate(samples):
            choice: dict[str, Any] = {"text": self._text(sample), "index": index}
            if wanted.logprobs is not None:
                choice["logprobs"] = self._text_logprobs(sample, wanted.logprobs)
            choice["finish_reason"] = _OPENAI_REASONS.get(sample.finish_reason, sample.finish_reason)
            choices.append(choice)
        document: dict[str, Any] = {
            "id": f"cmpl-{self.uuid(call)}",
            "choices": choices,
            "created": int(time.time()),
            "model": engine.config.model,
            "system_fingerprint": None,
            "object": "text_completion",
            "usage": _usage(samples, {"audio_tokens": None, "cached_tokens": 0}),
        }
        if extension := await self._extension(call, wanted, samples):
            document["nvext"] = extension
        return self.reply(document)

    def _text(self, sample: Sample) -> str:
        tokens = sample.token_ids.tolist()
        if sample.stop_reason is not None and tokens and tokens[-1] == sample.stop_reason:
            tokens.pop()  # a stop token is among the ids and not in the text
        return self.engine.tokenizer.decode(tokens, skip_special=True)

    def _chat_logprobs(self, sample: Sample, wanted: Wanted) -> dict[str, Any] | None:
        if wanted.logprobs is None:
            return None
        piece = self.engine.tokenizer.piece

        def top(entry: Entry) -> str:
            text, data = piece(entry[0])
            return f'{{"token":{text},"logprob":{entry[1]},"bytes":{data}}}'

        def content(row: list[Entry]) -> str:
            token, logprob, _ = row[0]
            text, data = piece(token)
            alternatives = "" if wanted.hide_alternatives else ",".join(map(top, row))
            head = f'"token":{text},"logprob":{logprob},"token_id":{token},"bytes":{data}'
            return f'{{{head},"top_logprobs":[{alternatives}]}}'

        rows = entries(self.engine.model, sample.scores, wanted.logprobs, f32_text)
        return {"content": array_of(map(content, rows)), "refusal": None}

    def _text_logprobs(self, sample: Sample, k: int) -> dict[str, Any]:
        piece = self.engine.tokenizer.piece
        rows = entries(self.engine.model, sample.scores, k, f32_wide_text)
        tops = [
            "{"
            + ",".join({text: f"{text}:{value}" for text, value in ((piece(t)[0], v) for t, v, _ in row)}.values())
            + "}"
            for row in rows
        ]
        return {
            "tokens": array_of(piece(row[0][0])[0] for row in rows),
            "token_logprobs": array_of(f32_text(sample.logprobs)),
            "top_logprobs": array_of(tops),
            "text_offset": [],
        }

    def _prompt_logprobs(self, call: Call, sample: Sample, k: int, numbers: Numbers, *, shuffled: bool) -> Raw:
        piece = self.engine.tokenizer.piece

        def write(place: int, entry: Entry) -> str:
            decoded = f',"decoded_token":{piece(entry[0])[0]}' if place else ""
            return f'{{"logprob":{entry[1]},"rank":{entry[2]}{decoded}}}'

        # The same order wherever this answer writes the maps: they are copies of one hash map.
        shuffle = random.Random(call.record.number) if shuffled else None  # noqa: S311 - repeatable by design
        return prompt_maps(
            prompt_entries(self.engine.model, sample.prompt_ids, sample.version, k, numbers), write, shuffle=shuffle
        )

    async def _extension(self, call: Call, wanted: Wanted, samples: list[Sample]) -> dict[str, Any]:
        """`nvext`: of several choices, it holds the last one's."""
        fields, sample = wanted.extra_fields, samples[-1]
        # The frontend merges the chunks' extensions: what the first chunk brings comes first.
        first: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        if "worker_id" in fields:
            first["worker_id"] = dict.fromkeys(("prefill_worker_id", "decode_worker_id"), self.engine.instance_id)
        if "timing" in fields:
            rest["timing"] = {
                "request_received_ms": int(time.time() * 1e3), "prefill_wait_time_ms": 0.1, "prefill_time_ms": 1.25,
                "ttft_ms": 1.35, "total_time_ms": 2.5,
            }  # fmt: skip
        routing = await self._routing(call, sample, wanted) if fields & {"routed_experts", "engine_data"} else None
        if "routed_experts" in fields and routing is not None:
            rest["routed_experts"] = routing
        if "engine_data" in fields:
            rest["engine_data"] = self._engine_data(call, wanted, sample, routing)
        if "stop_reason" in fields and sample.stop_reason is not None:
            rest["stop_reason"] = sample.stop_reason
        if "detailed_finish_reason" in fields:
            rest["detailed_finish_reason"] = "cancelled" if sample.finish_reason == "abort" else sample.finish_reason
        if "completion_token_ids" in fields:
            (first if len(sample.token_ids) > 1 else rest)["completion_token_ids"] = ids(sample.token_ids)
        if "prompt_logprobs" in fields and wanted.prompt_logprobs is not None:
            rest["prompt_logprobs"] = self._prompt_logprobs(
                call, sample, wanted.prompt_logprobs, f32_wide_text, shuffled=True
            )
        return first | rest

    def _engine_data(self, call: Call, wanted: Wanted, sample: Sample, routing: Any) -> dict[str, Any]:
        data: dict[str, Any] = {"prompt_token_ids": ids(sample.prompt_ids)}
        if wanted.asks[0].n == 1:
            data["kv_cache_hit"] = {"prompt_tokens": len(sample.prompt_ids), "reused_tokens": 0}
        if wanted.prompt_logprobs is not None:
            data["prompt_logprobs"] = self._prompt_logprobs(
                call, sample, wanted.prompt_logprobs, f64_text, shuffled=False
            )
        if routing is not None:
            data["routed_experts"] = routing
        data["completion_token_ids"] = ids(sample.token_ids)
        data["finished"] = True
        if wanted.logprobs is not None and len(sample.token_ids):
            data["completion_logprobs"] = array_of(f64_text(sample.logprobs))
        return data

    async def _routing(self, call: Call, sample: Sample, wanted: Wanted) -> Any:
        if not self.engine.config.routed_experts:
            return None
        rows = await self.engine.rows(call, sample, min(wanted.start, len(sample.prompt_ids)))
        if self.engine.config.routed_experts_container == "bare":
            return routing_bare(rows)
        return routing_object(rows, min(wanted.start, len(sample.prompt_ids)))

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
                "logprobs": None if wanted.logprobs is None else self._token_logprobs(sample, wanted.logprobs),
                "finish_reason": sample.finish_reason,
                "routed_experts": await self._routing(call, sample, wanted),
                **UNFILLED,
            }
            for sample in samples
        ]
        prompt_logprobs = None
        if wanted.prompt_logprobs is not None:
            prompt_logprobs = self._prompt_logprobs(
                call, samples[0], wanted.prompt_logprobs, f32_wide_text, shuffled=True
            )
        document = {
            "request_id": call.record.key if "x-request-id" in call.request.headers else self.uuid(call),
            "choices": choices,
            "prompt_logprobs": prompt_logprobs,
            "kv_transfer_params": None,
        }
        return self.reply(document)

    def _token_logprobs(self, sample: Sample, k: int) -> dict[str, Any]:
        placeholder = self.engine.tokenizer.placeholder

        def entry(item: Entry) -> str:
            name, data = placeholder(item[0])
            return f'"token":{name},"logprob":{item[1]},"bytes":{data}'

        def content(row: list[Entry]) -> str:
            return f'{{{entry(row[0])},"top_logprobs":[{",".join(f"{{{entry(item)}}}" for item in row)}]}}'

        return {"content": array_of(map(content, entries(self.engine.model, sample.scores, k, f32_wide_text)))}


def _usage(samples: list[Sample], details: dict[str, Any]) -> dict[str, Any]:
    # Of a batch of prompts the frontend adds each prompt once.
    prompts = {sample.prompt_ids.tobytes(): len(sample.prompt_ids) for sample in samples}
    prompt, completion = sum(prompts.values()), sum(len(sample.token_ids) for sample in samples)
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }  # fmt: skip
