"""vLLM's server: /inference/v1/generate in its two dialects, chat with `return_token_ids`, and the tokenizer routes."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG001, ARG002, D102

from __future__ import annotations

import json
import time
from typing import Any

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Ask, Call, EngineError
from dynamo_tito.simulator.encode import Raw, array_of, f32_wide_text, ids, routing_npy
from dynamo_tito.simulator.http import Response
from dynamo_tito.simulator.model import Sample

from .common import Entry, entries, prompt_entries, prompt_maps
from .vllm_admin import VllmAdminRoutes

__all__ = ["VllmApp", "integer", "integers"]

MAX_LOGPROBS = 20
SALT_LIMIT = 128
_ERROR_TYPES = {
    400: "BadRequestError", 404: "NotFoundError", 422: "UnprocessableEntityError", 500: "InternalServerError", 501:
    "NotImplementedError", 503: "ServiceUnavailableError",
}  # fmt: skip


def integer(values: dict[str, Any], name: str, default: Any = None, *, low: int = 0) -> Any:
    """An optional integer of a request.

    Raises:
        EngineError: it is something else, or below `low`.
    """
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not int or value < low:
        raise EngineError(400, f"{name} must be an integer of at least {low}, got {value!r}")
    return value


def integers(values: dict[str, Any], name: str) -> list[int]:
    """A list of token ids; absent: empty.

    Raises:
        EngineError: it is something else.
    """
    value = values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise EngineError(400, f"{name} must be a list of token ids")
    return value


class VllmApp(VllmAdminRoutes, App):
    """The routes of `vllm serve --enable-scale-out` with `VLLM_SERVER_DEV_MODE=1`."""

    def add_routes(self) -> None:
        self.route("POST", "/inference/v1/generate", self.generate)
        self.route("POST", "/v1/chat/completions", self.chat)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/health", self.health)
        self.route("POST", "/tokenize", self.tokenize)
        self.route("POST", "/detokenize", self.detokenize)
        self.add_admin_routes()

    @property
    def newer(self) -> bool:
        """Whether the dialect is that of 0.32 and above."""
        return self.engine.config.vllm_version != "0.31"

    # --- errors ---

    def failure(self, call: Call, error: EngineError) -> Response:
        status = error.status
        message = error.message or "injected fault"
        value = {"message": message, "type": _ERROR_TYPES.get(status, "Error"), "param": None, "code": status}
        return self.reply({"error": value}, status, error.headers)

    def wrong_method(self, allowed: Any) -> Response:
        value = {"message": "Method Not Allowed", "type": "Method Not Allowed", "param": None, "code": 405}
        return self.reply({"error": value}, 405, {"allow": ", ".join(allowed)})

    @property
    def not_ready(self) -> str:
        return "Generation is paused. Please retry after it resumes."

    def document(self, call: Call) -> dict[str, Any]:
        """The request's JSON object.

        Raises:
            EngineError: it is none, or is not declared as JSON.
        """
        if call.request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise EngineError(400, "Unsupported Media Type: Only 'application/json' is allowed")
        try:
            document = call.request.json()
        except ValueError as error:
            raise EngineError(400, f"1 validation error:\n  JSON decode error: {error}") from None
        if not isinstance(document, dict):
            raise EngineError(400, "1 validation error:\n  Input should be a valid dictionary")
        model = document.get("model")
        if model not in (None, self.engine.config.model, *self.engine.admin.adapters):
            raise EngineError(404, f"The model `{model}` does not exist.")
        if document.get("stream"):
            raise EngineError(501, "the embedded engine does not stream")
        salt = document.get("cache_salt")
        if salt is not None and (
            not isinstance(salt, str) or not 0 < len(salt) <= SALT_LIMIT or set(salt) & set("@/\\\0")
        ):
            raise EngineError(
                400, f"cache_salt must be a string of 1 to {SALT_LIMIT} characters without @, /, \\ and NUL"
            )
        return document

    # --- what it serves ---

    async def health(self, call: Call) -> Response:
        return Response(200, b"", None)

    async def models(self, call: Call) -> Response:
        config = self.engine.config
        card = {"object": "model", "created": int(time.time()), "owned_by": "vllm"}
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
                "permission": [],
            }
            for name, root, parent in names
        ]
        return self.reply({"object": "list", "data": data})

    async def tokenize(self, call: Call) -> Response:
        document = self.document(call)
        tokenizer = self.engine.tokenizer
        if "messages" in document:
            tokens = tokenizer.apply_chat_template(
                document["messages"],
                add_generation_prompt=document.get("add_generation_prompt", True),
                continue_final_message=document.get("continue_final_message", False),
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

    # --- /inference/v1/generate ---

    async def generate(self, call: Call) -> Response:
        document = self.document(call)
        prompt, params = integers(document, "token_ids"), document.get("sampling_params")
        if not prompt:
            raise EngineError(
                400, "1 validation error:\n  token_ids: List should have at least 1 item after validation, not 0"
            )
        if not isinstance(params, dict):
            raise EngineError(400, "1 validation error:\n  sampling_params: Field required")
        logprobs, prompt_logprobs = (self.alternatives(params, name) for name in ("logprobs", "prompt_logprobs"))
        start = self.start(params, len(prompt))
        samples = await self.sample(call, prompt, params)
        choices = [await self.choice(call, sample, logprobs, start) for sample in samples]
        name = call.request.headers.get("x-request-id") or document.get("request_id") or self.uuid(call)
        answer = {"request_id": f"generate-tokens-{name}"}
        scored = None if prompt_logprobs is None else self.prompt_logprobs(samples[0], prompt_logprobs)
        return self.reply(self.generate_answer(answer, document, samples, choices, scored))

    def generate_answer(
        self,
        answer: dict[str, Any],
        document: dict[str, Any],
        samples: list[Sample],
        choices: list[dict[str, Any]],
        scored: Raw | None,
    ) -> dict[str, Any]:
        """The whole answer, in the dialect's order."""
        if not self.newer:
            return answer | {"choices": choices, "prompt_logprobs": scored, "kv_transfer_params": None}
        echo = ids(samples[0].prompt_ids) if document.get("return_token_ids") else None
        return answer | {
            "model": self.engine.config.model,
            "created": int(time.time()),
            "usage": usage(samples),
            "prompt_logprobs": scored,
            "prompt_token_id_logprobs": None,
            "prompt_token_ids": echo,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "output_mode": "tokens",
            "choices": choices,
        }

    async def choice(self, call: Call, sample: Sample, logprobs: int | None, start: int) -> dict[str, Any]:
        """One choice of /inference/v1/generate, in the dialect's order."""
        content = None if logprobs is None else {"content": self.content(sample, logprobs)}
        routing = await self.routing(call, sample, start)
        if not self.newer:
            return {
                "index": sample.index, "logprobs": content, "finish_reason": finish_reason(sample), "token_ids":
                ids(sample.token_ids), "routed_experts": routing, "sampling_mask": None,
            }  # fmt: skip
        return {
            "index": sample.index,
            "finish_reason": finish_reason(sample),
            "stop_reason": sample.stop_reason,
            "token_ids": ids(sample.token_ids),
            "routed_experts": routing,
            "sampling_mask": None,
            "weight_versions": [{"version": call.version, "start": 0, "end": len(sample.token_ids)}],
            "logprobs": content,
        }

    def content(self, sample: Sample, k: int) -> Raw:
        """The entries of the sampled tokens."""
        rows = entries(self.engine.model, sample.scores, k, f32_wide_text)
        if self.newer:
            # The sampled token first, then rank order, not cut: k entries, or k + 1.
            def entry(item: Entry) -> str:
                return f'"token_id":{item[0]},"logprob":{item[1]},"rank":{item[2]}'
        else:
            # Cut to k, the sampled token among them.
            rows = [row[: max(k, 1)] for row in rows]

            def entry(item: Entry) -> str:
                return f'"token":"token_id:{item[0]}","logprob":{item[1]},"bytes":null'

        return array_of(
            f'{{{entry(row[0])},"top_logprobs":[{",".join(f"{{{entry(item)}}}" for item in row)}]}}' for row in rows
        )

    # --- chat ---

    async def chat(self, call: Call) -> Response:
        document = self.document(call)
        messages = document.get("messages")
        if not isinstance(messages, list):
            raise EngineError(400, "1 validation error:\n  messages: Field required")
        return await self.answer_chat(call, document, self.engine.tokenizer.apply_chat_template(messages))

    async def answer_chat(self, call: Call, document: dict[str, Any], prompt: list[int]) -> Response:
        """A chat completion of these prompt tokens."""
        top = self.alternatives(document, "top_logprobs") or 0
        scored = self.alternatives(document, "prompt_logprobs")
        start = self.start(document, len(prompt))
        limit = document.get("max_completion_tokens")
        params = document if limit is None else document | {"max_tokens": limit}
        samples = await self.sample(call, prompt, params)
        returned = bool(document.get("return_token_ids"))
        choices = [
            {
                "index": sample.index,
                "message": self._message(sample),
                "logprobs": {"content": self.chat_content(sample, top, document)} if document.get("logprobs") else None,
                "finish_reason": finish_reason(sample),
                "stop_reason": sample.stop_reason,
                "token_ids": ids(sample.token_ids) if returned else None,
                "routed_experts": await self.routing(call, sample, start),
            }
            for sample in samples
        ]
        return self.reply(
            {
                "id": f"chatcmpl-{call.request.headers.get('x-request-id') or self.uuid(call)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self.engine.config.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": None,
                "usage": usage(samples),
                "prompt_logprobs": None if scored is None else self.prompt_logprobs(samples[0], scored),
                "prompt_token_ids": prompt if returned else None,
                "kv_transfer_params": None,
            }
        )

    def _message(self, sample: Sample) -> dict[str, Any]:
        content = self.engine.tokenizer.decode(sample.token_ids.tolist(), skip_special=True)
        absent = dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        return {"role": "assistant", "content": content, **absent, "tool_calls": [], "reasoning": None}

    def chat_content(self, sample: Sample, k: int, document: dict[str, Any]) -> Raw:
        """Entries with text, or with placeholders if `return_tokens_as_token_ids` asks for them."""
        tokenizer = self.engine.tokenizer
        placeholders = bool(document.get("return_tokens_as_token_ids"))

        def top(item: Entry) -> str:
            # A placeholder's bytes are its own here; the entry above them has those of the token.
            text, data = tokenizer.placeholder(item[0]) if placeholders else tokenizer.piece(item[0])
            return f'{{"token":{text},"logprob":{item[1]},"bytes":{data}}}'

        def content(row: list[Entry]) -> str:
            text, data = tokenizer.piece(row[0][0])
            if placeholders:
                text = tokenizer.placeholder(row[0][0])[0]
            tops = ",".join(map(top, row[:k]))
            return f'{{"token":{text},"logprob":{row[0][1]},"bytes":{data},"top_logprobs":[{tops}]}}'

        return array_of(map(content, entries(self.engine.model, sample.scores, k, f32_wide_text)))

    # --- shared ---

    def alternatives(self, values: dict[str, Any], name: str) -> int | None:
        """How many alternatives were asked for; -1, the whole vocabulary, is cut to eight."""
        count = integer(values, name, low=-1)
        if count is not None and count > MAX_LOGPROBS:
            raise EngineError(
                400, f"Requested sample {name} of {count}, which is greater than max allowed: {MAX_LOGPROBS}"
            )
        return 8 if count == -1 else count

    def start(self, values: dict[str, Any], prompt_len: int) -> int:
        """`routed_experts_prompt_start`."""
        start = values.get("routed_experts_prompt_start")
        if start is None:
            return 0
        if type(start) is not int or not 0 <= start <= prompt_len:
            raise EngineError(
                400,
                f"routed_experts_prompt_start must be between 0 and the prompt length ({prompt_len}), got {start!r}",
            )
        return start

    async def sample(self, call: Call, prompt: list[int], params: dict[str, Any]) -> list[Sample]:
        """Sample as the parameters ask.

        Raises:
            EngineError: paused in a way that refuses new requests, or the parameters are wrong.
        """
        if self.newer and self.engine.admin.paused in ("abort", "wait"):
            raise EngineError(503, self.not_ready, kind="not_ready")
        ask = Ask(
            prompt,
            integer(params, "max_tokens", low=1),
            n=integer(params, "n", 1, low=1),
            seed=integer(params, "seed"),
            stop_token_ids=integers(params, "stop_token_ids"),
            ignore_eos=bool(params.get("ignore_eos")),
            min_tokens=integer(params, "min_tokens", 0),
        )
        return await self.engine.sample(call, ask)

    async def routing(self, call: Call, sample: Sample, start: int) -> Any:
        """Routed experts in this server's container."""
        if not self.engine.config.routed_experts:
            return None
        return routing_npy(await self.engine.rows(call, sample, start))

    def prompt_logprobs(self, sample: Sample, k: int) -> Raw:
        """The map form: the actual token first, then the best k."""
        piece = self.engine.tokenizer.piece

        def write(place: int, entry: Entry) -> str:
            return f'{{"logprob":{entry[1]},"rank":{entry[2]},"decoded_token":{piece(entry[0])[0]}}}'

        rows = prompt_entries(self.engine.model, sample.prompt_ids, sample.version, k, f32_wide_text)
        return prompt_maps(rows, write, shuffle=None)


def finish_reason(sample: Sample) -> str:
    """VLLM calls the end-of-sequence token a stop."""
    return "stop" if sample.finish_reason == "eos" else sample.finish_reason


def usage(samples: list[Sample]) -> dict[str, Any]:
    """Token counts of one prompt and its choices."""
    prompt, completion = len(samples[0].prompt_ids), sum(len(sample.token_ids) for sample in samples)
    return {
        "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
        "prompt_tokens_details": None, "completion_tokens_details": None,
    }  # fmt: skip
