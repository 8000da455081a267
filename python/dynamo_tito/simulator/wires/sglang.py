"""SGLang 0.5.23: the native /generate route, and administration."""

# Handlers are named for their routes, and all have one signature.
# ruff: noqa: ARG001, ARG002, D102

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dynamo_tito.simulator.app import App, Route
from dynamo_tito.simulator.calls import Ask, Call, EngineError
from dynamo_tito.simulator.encode import array_of, f32_wide_text, ids, routing_bare
from dynamo_tito.simulator.http import Response
from dynamo_tito.simulator.model import Sample

from .common import Entry, entries, integer, integers, prompt_entries

__all__ = ["SglangApp"]


class SglangApp(App):
    """`python -m sglang.launch_server --enable-return-routed-experts`."""

    def add_routes(self) -> None:
        self.route("POST PUT", "/generate", self.generate)
        self.route("GET", "/v1/models", self.models)
        self.route("GET", "/model_info", self.model_info)
        self.route("GET", "/health", self.health)
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

    def no_route(self, call: Call) -> Response:
        return self.reply({"detail": "Not Found"}, 404)

    def wrong_method(self, allowed: Any) -> Response:
        return self.reply({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(allowed)})

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

    # --- /generate ---

    async def generate(self, call: Call) -> Response:
        document = self.document(call)
        params = document.get("sampling_params") or {}
        if document.get("stream"):
            raise EngineError(501, "the embedded engine does not stream")
        if "input_ids" not in document and "text" not in document:
            raise EngineError(400, "Either text, input_ids or input_embeds should be provided.")
        prompt = (
            integers(document, "input_ids")
            if "input_ids" in document
            else self.engine.tokenizer.encode(document["text"])
        )
        start = integer(document, "routed_experts_start_len", 0)
        if start > len(prompt):
            raise EngineError(
                400, f"routed_experts_start_len ({start}) must not exceed the prompt length ({len(prompt)})"
            )
        if integer(document, "logprob_start_len", -1, low=-1) > len(prompt):
            raise EngineError(400, f"logprob_start_len must not exceed the prompt length ({len(prompt)})")
        n = integer(params, "n", 1, low=1)
        ask = Ask(
            prompt,
            integer(params, "max_new_tokens"),
            n=n,
            seed=integer(params, "sampling_seed"),
            stop_token_ids=integers(params, "stop_token_ids"),
            ignore_eos=bool(params.get("ignore_eos")),
            min_tokens=integer(params, "min_new_tokens", 0),
        )
        samples = await self.engine.sample(call, ask)
        answers = [await self._answer(call, document, sample, start) for sample in samples]
        return Response(200, b"[" + b",".join(answers) + b"]" if n > 1 else answers[0])

    async def _answer(self, call: Call, document: dict[str, Any], sample: Sample, start: int) -> bytes:
        completion = len(sample.token_ids)
        info: dict[str, Any] = {
            "id": document.get("rid") or self.uuid(call).replace("-", ""),
            "finish_reason": _finish_reason(sample),
            "prompt_tokens": len(sample.prompt_ids),
            "weight_version": call.version,
            "num_retractions": 0,
        }
        if document.get("return_logprob"):
            info |= self._logprobs(document, sample)
        info |= {"reasoning_tokens": 0, "completion_tokens": completion, "cached_tokens": 0}
        if document.get("return_routed_experts") and self.engine.config.routed_experts:
            info["routed_experts"] = routing_bare(await self.engine.rows(call, sample, start))
        info["e2e_latency"] = 0.1
        answer: dict[str, Any] = {
            "text": self.engine.tokenizer.decode(sample.token_ids.tolist(), skip_special=True),
            "output_ids": ids(sample.token_ids),
            "meta_info": info,
        }
        if document.get("return_prompt_token_ids"):
            answer["prompt_token_ids"] = ids(sample.prompt_ids)
        return self.reply(answer).body

    def _logprobs(self, document: dict[str, Any], sample: Sample) -> dict[str, Any]:
        texts = bool(document.get("return_text_in_logprobs"))
        top = integer(document, "top_logprobs_num", 0)
        model = self.engine.model
        triple = self._triples(texts=texts)

        def best(row: list[Entry]) -> str:
            ranked = sorted(row, key=lambda entry: entry[2])[:top]
            return "[" + ",".join(map(triple, ranked)) + "]"

        info: dict[str, Any] = {"input_token_logprobs": []}
        begin = integer(document, "logprob_start_len", -1, low=-1)
        if begin >= 0:
            rows = prompt_entries(model, sample.prompt_ids, sample.version, top, f32_wide_text)[begin:]
            # Whatever the start, the first has no value.
            first = triple((int(sample.prompt_ids[begin]), "null", 0)) if rows else None
            info["input_token_logprobs"] = array_of(
                [*([first] if first else []), *(triple(row[0]) for row in rows[1:])]
            )
            if top and rows:
                info["input_top_logprobs"] = array_of(["null", *(best(row) for row in rows[1:])])
        rows = entries(model, sample.scores, top, f32_wide_text)
        info["output_token_logprobs"] = array_of(triple(row[0]) for row in rows)
        info["output_token_logprobs_length"] = len(rows)
        if top:
            info["output_top_logprobs"] = array_of(map(best, rows))
        return info

    def _triples(self, *, texts: bool) -> Callable[[Entry], str]:
        piece = self.engine.tokenizer.piece

        def triple(entry: Entry) -> str:
            return f"[{entry[1]},{entry[0]},{piece(entry[0])[0] if texts else 'null'}]"

        return triple

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


def _finish_reason(sample: Sample) -> dict[str, Any]:
    match sample.finish_reason:
        case "length":
            return {"type": "length", "length": len(sample.token_ids)}
        case "abort":
            return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
        case "stop" | "eos":
            return {
                "type": "stop",
                "matched": sample.stop_reason if sample.stop_reason is not None else int(sample.token_ids[-1]),
            }
        case other:
            return {"type": other}
