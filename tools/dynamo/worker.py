"""A stand-in engine behind the real Dynamo frontend: registers a model, samples with the embedded engine's hash model.

What is Dynamo's own: the runtime, discovery, the RL route registry, and the functions of `dynamo/vllm/handlers.py` that
build `engine_data` (taken from the installed file; the module itself cannot be imported without vLLM). What is not: the
engine. It samples with `dynamo_tito/simulator/model.py`, loaded by path, because this runs in Dynamo's venv.

`--record` names a JSON-lines file: {"event": "request", "context_id", "request"} for each request that reaches the
engine, {"event": "sampled", "context_id", "prompt_ids", "choices"} when it has answered, {"event": "cancelled", ...}
when the frontend gave up on it. `--control` names a JSON file, read at each request: see `CONTROL`.
"""

# Administration routes are named for what they do, and all have one signature.
# ruff: noqa: ARG002, D102

from __future__ import annotations

import argparse
import ast
import asyncio
import base64
import builtins
import importlib.util
import json
import logging
import math
import resource
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Optional

import artifact
import dynamo.llm.exceptions as dynamo_exceptions
import numpy as np
import sglang_native
import uvloop
from dynamo.common.rl import RLRouteRegistry, register_rl_routes
from dynamo.common.utils.runtime import create_runtime
from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model
from dynamo.runtime.logging import configure_dynamo_logging

CONTROL: dict[str, Any] = {
    "num_layers": 4,
    "top_k": 2,
    "num_experts": 128,
    "max_tokens": 6,  # when the request names none
    "chunk": 1,  # tokens per chunk that goes to the frontend
    "delay": 0.0,  # seconds before each chunk
    "extra_rows": 0,  # routed-expert rows more (or fewer) than a correct engine returns
    "routed_experts": "object",  # "object", "bare" (base64 of int32, as SGLang's worker sends) or null
    "finish_reason": None,  # instead of the sampled one
    "error_after": None,  # finish with an engine error after this many tokens
    "raise": None,  # {"kind": exception class, "args": [...]} instead of sampling
    "drop_logprobs_at": None,  # leave the logprobs out of the chunk that begins at this token
    "nonfinite": False,  # first logprob of each chunk is -inf
    "fail_admin": {},  # engine route -> message of the error it answers
}

HELPERS = (
    "_accumulate_engine_data",
    "_attach_prompt_logprobs_engine_data",
    "_attach_routed_experts_engine_data",
    "_finite_logprob",
    "_flatten_logprobs",
    "_is_token_in_request",
    "_iter_nvext_sources",
    "_nvext_extra_field_requested",
    "_prompt_token_ids_for_engine_data",
    "_serialize_prompt_logprobs",
    "_serialize_routed_experts",
)
# The frontend's encoding of "all of the vocabulary" (-1).
WHOLE_VOCABULARY = 2**32 - 1
MEMORY_LIMIT = 16 << 30
ABORT = "abort"

logger = logging.getLogger("stand-in")


def dynamo_helpers() -> dict[str, Any]:
    """The named functions of the installed `dynamo/vllm/handlers.py`."""
    common = importlib.util.find_spec("dynamo.common")
    if common is None or common.origin is None:
        raise RuntimeError("ai-dynamo is not installed")
    tree = ast.parse((Path(common.origin).parent.parent / "vllm" / "handlers.py").read_text())
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in HELPERS]
    names: dict[str, Any] = {
        "Any": Any, "Dict": dict, "Iterator": Iterator, "Optional": Optional, "_MIN_FINITE_LOGPROB": -1e30,
        "base64": base64, "deque": deque, "logger": logger, "math": math,
    }  # fmt: skip
    code = compile(ast.Module(body=body, type_ignores=[]), "handlers.py", "exec")
    exec(code, names)  # noqa: S102 - code of the installed package, whose module cannot be imported without vLLM
    absent = [name for name in HELPERS if name not in names]
    if absent:
        raise RuntimeError(f"this version of ai-dynamo has no {', '.join(absent)}")
    return names


def load_model_module(path: Path) -> Any:
    """The hash model, from its file."""
    spec = importlib.util.spec_from_file_location("hash_model", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hash_model"] = module
    spec.loader.exec_module(module)
    return module


class Entry:
    """One alternative of a prompt logprob, with the attributes of vLLM's Logprob."""

    def __init__(self, logprob: float, rank: int, decoded_token: str | None) -> None:
        self.logprob, self.rank, self.decoded_token = logprob, rank, decoded_token


class Engine:
    """Answers generate requests, and the administration routes with the replies of Dynamo's vLLM worker."""

    def __init__(self, control: Path, record: Path, model_module: Any) -> None:
        self._control, self._record = control, record.open("a", buffering=1)
        self._models = model_module
        self._helpers = dynamo_helpers()
        self.paused, self.version, self.version_declared = False, "unknown", False
        self._running: set[str] = set()
        self._aborted: set[str] = set()

    def control(self) -> dict[str, Any]:
        return CONTROL | (json.loads(self._control.read_text()) if self._control.exists() else {})

    def note(self, event: str, context: Any, **values: Any) -> None:
        self._record.write(json.dumps({"event": event, "context_id": context.id(), **values}, default=str) + "\n")

    async def generate(self, request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
        control = self.control()
        self.note("request", context, request=dict(request))
        if control["raise"]:
            kind = control["raise"]["kind"]
            error = getattr(dynamo_exceptions, kind, None) or getattr(builtins, kind)
            raise error(*control["raise"].get("args", ["raised on purpose"]))
        call = Call(request, control, self._helpers)
        model = self._models.Model(**{key: control[key] for key in ("num_layers", "top_k", "num_experts")})
        native = sglang_native.asked(request)
        if native is None:
            answered = self._sampled(call, model, context)
        else:
            answered = self._native(sglang_native.Native(native, call.prompt, context.id(), control), model, context)
        self._running.add(context.id())
        try:
            async for chunk in answered:
                yield chunk
        finally:
            self._running.discard(context.id())
            self._aborted.discard(context.id())

    async def _held(self, context: Any, delay: float) -> None:
        """The time of a chunk, and that of a pause which keeps requests."""
        await asyncio.sleep(delay)
        while self.paused and not context.is_stopped() and context.id() not in self._aborted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _sampled(self, call: Call, model: Any, context: Any) -> AsyncIterator[dict[str, Any]]:
        control = self.control()
        samples = [
            model.sample(
                call.prompt, call.max_tokens, version=self.version, index=index,
                request_seed=call.seed, stop_token_ids=call.stop_token_ids, min_tokens=call.min_tokens,
            )
            for index in range(call.n)
        ]  # fmt: skip
        capture = artifact.session(call.request, call, control)
        accumulated: tuple[dict[int, list[int]], dict[int, list[float]]] = ({}, {})
        for begin in range(0, max(len(sample.token_ids) for sample in samples), control["chunk"]):
            await self._held(context, control["delay"])
            if aborted := context.id() in self._aborted:
                samples = [_cut(model, sample, begin) for sample in samples]
            for sample in samples:
                if context.is_stopped():
                    self.note("cancelled", context, at=begin)
                    return
                if begin >= len(sample.token_ids) and sample.finish_reason != ABORT:
                    continue
                chunk = call.chunk(sample, begin, model)
                if capture is not None and artifact.is_last(chunk):
                    entries = _given_first(model, sample.scores, artifact.width(call))
                    routing = sample.routing(0, extra_rows=control["extra_rows"])
                    upload = await artifact.upload(capture, call.prompt, sample, entries, routing)
                    chunk.setdefault("engine_data", {})["metadata_upload"] = upload
                if call.wants_engine_data:
                    self._helpers["_accumulate_engine_data"](chunk, call.prompt, *accumulated)
                yield chunk
                if str(chunk.get("finish_reason", "")).startswith("error"):
                    return
            if aborted:
                break
        self.note("sampled", context, prompt_ids=call.prompt, choices=[_noted(sample) for sample in samples])

    async def _native(self, call: sglang_native.Native, model: Any, context: Any) -> AsyncIterator[dict[str, Any]]:
        control = self.control()
        sample = model.sample(call.prompt, call.max_tokens, version=self.version, **call.sampling)
        begin = 0
        while begin < len(sample.token_ids):
            await self._held(context, control["delay"])
            if context.is_stopped():
                self.note("cancelled", context, at=begin)
                return
            if control["error_after"] is not None and begin >= control["error_after"]:
                raise dynamo_exceptions.HttpError(503, "engine failed on purpose")
            if context.id() in self._aborted:
                sample = _cut(model, sample, begin)
            end = min(begin + control["chunk"], len(sample.token_ids))
            yield call.chunk(sample, begin, end, model)
            begin = end
        self.note("sampled", context, prompt_ids=call.prompt, choices=[_noted(sample)])

    # --- administration, with the replies of dynamo/vllm/handlers.py ---

    def routes(self) -> dict[str, Any]:
        handlers = (
            self.liveness_probe, self.pause_generation, self.resume_generation, self.flush_cache, self.abort_request,
            self.update_weights_from_disk, self.update_weights_from_distributed, self.update_weights_from_tensor,
            self.init_weights_update_group, self.destroy_weights_update_group, self.get_weight_version,
            self.set_weight_version,
        )  # fmt: skip
        return {handler.__name__: self._failable(handler) for handler in handlers}

    def _failable(self, handler: Any) -> Any:
        async def call(body: dict[str, Any] | None) -> dict[str, Any]:
            message = self.control()["fail_admin"].get(handler.__name__)
            return _error(message) if message else await handler(body or {})

        return call

    async def liveness_probe(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "alive": True}

    async def pause_generation(self, body: dict[str, Any]) -> dict[str, Any]:
        mode = body.get("mode", "keep")
        if mode not in ("keep", "wait", "abort"):
            return _error(f"Invalid mode '{mode}'; expected keep|wait|abort")
        if mode == "abort":
            self._aborted |= self._running
        while mode == "wait" and self._running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.paused = True
        clear = bool(body.get("clear_cache", False))
        return {"status": "ok", "message": "Engine paused", "mode": mode, "clear_cache": clear}

    async def resume_generation(self, body: dict[str, Any]) -> dict[str, Any]:
        self.paused = False
        return {"status": "ok", "message": "Engine resumed"}

    async def flush_cache(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "message": "Cache flushed"}

    async def abort_request(self, body: dict[str, Any]) -> dict[str, Any]:
        request_id = body.get("request_id")
        if not request_id:
            return _error("Missing 'request_id' in body")
        if request_id in self._running:
            self._aborted.add(request_id)
        return {"status": "ok", "request_id": request_id}

    async def update_weights_from_disk(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.paused:
            return _error(NOT_PAUSED)
        if not body.get("model_path"):
            return _error("Missing 'model_path' in body")
        return self._updated(body)

    async def update_weights_from_distributed(self, body: dict[str, Any]) -> dict[str, Any]:
        unpaused, reset = body.get("allow_unpaused", False), body.get("reset_prefix_cache", True)
        if not isinstance(unpaused, bool):
            return _error("'allow_unpaused' must be a boolean")
        if unpaused and reset:
            return _error(
                "Unpaused weight updates cannot reset the prefix cache. "
                "Set 'reset_prefix_cache' to false or pause generation first."
            )
        return self._updated(body) if self.paused or unpaused else _error(NOT_PAUSED)

    async def update_weights_from_tensor(self, body: dict[str, Any]) -> dict[str, Any]:
        return _error("update_weights_from_tensor is not implemented")

    async def init_weights_update_group(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "message": "Weight update group initialized"}

    async def destroy_weights_update_group(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": "ok", "message": "Weight update group destroyed"}

    async def get_weight_version(self, body: dict[str, Any]) -> dict[str, Any]:
        version = self.version if self.version_declared else None
        return {"status": "ok", "version": version, "version_declared": self.version_declared}

    async def set_weight_version(self, body: dict[str, Any]) -> dict[str, Any]:
        if "weight_version" not in body:
            return _error("Missing 'weight_version' in body")
        self._updated(body)
        return {"status": "ok", "version": body["weight_version"]}

    def _updated(self, body: dict[str, Any]) -> dict[str, Any]:
        declared = "weight_version" in body
        if declared:
            self.version, self.version_declared = str(body["weight_version"]), True
        return {"status": "ok", "version": body.get("weight_version", "unknown"), "version_declared": declared}


NOT_PAUSED = (
    "Worker must be paused via pause_generation() before updating weights. "
    "Call pause_generation() first, then update, then resume_generation()."
)


def _cut(model: Any, sample: Any, count: int) -> Any:
    """The first tokens of a sample, aborted; or the whole of one that had ended."""
    if count >= len(sample.token_ids):
        return sample
    ids = sample.token_ids[:count]
    return model.given(sample.prompt_ids, ids, version=sample.version, index=sample.index, finish_reason=ABORT)


def _noted(sample: Any) -> dict[str, Any]:
    """What the record says of a sample."""
    values = {name: getattr(sample, name).tolist() for name in ("token_ids", "logprobs")}
    return {"index": sample.index, "version": sample.version, **values}


def _error(message: str) -> dict[str, Any]:
    return {"status": "error", "message": message}


class Call:
    """One request as the frontend hands it over, and the chunks that answer it."""

    def __init__(self, request: dict[str, Any], control: dict[str, Any], helpers: dict[str, Any]) -> None:
        self._control, self._helpers = control, helpers
        self.request = request
        extra = request.get("extra_args") or {}
        stop = request.get("stop_conditions") or {}
        output = request.get("output_options") or {}
        options = {**(request.get("sampling_options") or {}), **(extra.get("sampling_options") or {})}
        # /inference/v1/generate: the request as it was sent travels beside the frontend's own reading of it.
        sent = (extra.get("vllm_tito") or {}).get("sampling_params")
        params = sent if sent is not None else options
        self.prompt: list[int] = list(request.get("token_ids") or [])
        self.n = int(params.get("n") or 1)
        self.seed: int | None = params.get("seed")
        self.max_tokens = int(stop.get("max_tokens") or control["max_tokens"])
        self.min_tokens = int(stop.get("min_tokens") or 0)
        self.stop_token_ids = [*(stop.get("stop_token_ids") or []), *(stop.get("stop_token_ids_hidden") or [])]
        self.logprobs = _count(output.get("logprobs"))
        self.prompt_logprobs = _count(output.get("prompt_logprobs"))
        self.start = params.get("routed_experts_prompt_start") or 0
        if sent is not None and not (type(self.start) is int and 0 <= self.start < len(self.prompt)):
            raise ValueError("routed_experts_prompt_start must be an integer smaller than the prompt token count")
        self.wants_engine_data = bool(helpers["_nvext_extra_field_requested"](request, "engine_data"))

    def chunk(self, sample: Any, begin: int, model: Any) -> dict[str, Any]:
        """The worker's message about the tokens of one choice from `begin` on."""
        control = self._control
        end = min(begin + control["chunk"], len(sample.token_ids))
        ids = sample.token_ids[begin:end].tolist()
        chunk: dict[str, Any] = {"index": sample.index, "token_ids": ids}
        if control["error_after"] is not None and begin >= control["error_after"]:
            return {"index": sample.index, "token_ids": [], "finish_reason": "error: engine failed on purpose"}
        if self.logprobs is not None and control["drop_logprobs_at"] != begin:
            self._add_logprobs(chunk, sample, begin, end, model)
        if end == len(sample.token_ids):
            self._add_last(chunk, sample, model)
        return chunk

    def _add_logprobs(self, chunk: dict[str, Any], sample: Any, begin: int, end: int, model: Any) -> None:
        values = sample.logprobs[begin:end].tolist()
        if self._control["nonfinite"]:
            values[0] = -1e30
        chunk["log_probs"] = values
        scores = type(sample.scores)(*(getattr(sample.scores, name)[begin:end] for name in sample.scores.__slots__))
        chunk["top_logprobs"] = [
            [
                {
                    "rank": rank,
                    "token_id": token,
                    "token": f"w{token}",
                    "logprob": value,
                    "bytes": list(f"w{token}".encode()),
                }
                for token, value, rank in entries
            ]
            for entries in _given_first(model, scores, self.logprobs or 0)
        ]
        for entries, value in zip(chunk["top_logprobs"], values, strict=True):
            entries[0]["logprob"] = value

    def _add_last(self, chunk: dict[str, Any], sample: Any, model: Any) -> None:
        control, helpers = self._control, self._helpers
        # The engine calls an end-of-sequence token a stop, as vLLM does.
        reason = control["finish_reason"] or {"eos": "stop"}.get(sample.finish_reason, sample.finish_reason)
        prompt, completion = len(self.prompt), len(sample.token_ids)
        chunk["finish_reason"] = reason
        if sample.stop_reason is not None:
            chunk["stop_reason"] = sample.stop_reason
        chunk["completion_usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion * self.n,
            "total_tokens": prompt + completion * self.n,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        engine_data: dict[str, Any] = {}
        if self.wants_engine_data:
            engine_data["prompt_token_ids"] = list(self.prompt)
        if self.n == 1:
            engine_data["kv_cache_hit"] = {"prompt_tokens": prompt, "reused_tokens": 0}
        if engine_data:
            chunk["engine_data"] = engine_data
        if self.prompt_logprobs is not None:
            helpers["_attach_prompt_logprobs_engine_data"](chunk, self._score_prompt(model, sample.version))
        routing = sample.routing(self.start, extra_rows=control["extra_rows"])
        if control["routed_experts"] == "object":
            helpers["_attach_routed_experts_engine_data"](
                chunk, helpers["_serialize_routed_experts"](routing, start=self.start)
            )
        elif control["routed_experts"] == "bare":
            data = base64.b64encode(routing.astype("<i4").tobytes()).decode()
            chunk.setdefault("engine_data", {})["routed_experts"] = data

    def _score_prompt(self, model: Any, version: str) -> Any:
        scores = model.score(np.asarray(self.prompt, dtype=np.int64), version=version)
        entries = _given_first(model, scores, self.prompt_logprobs or 0)
        positions: list[dict[int, Entry] | None] = [None]
        # As recorded from vLLM's worker: the prompt's own token without its text, the others with theirs.
        positions += [
            {
                token: Entry(value, rank, _text(token) if at else None)
                for at, (token, value, rank) in enumerate(position)
            }
            for position in entries[1:]
        ]
        return self._helpers["_serialize_prompt_logprobs"](positions)


def _count(value: int | None) -> int | None:
    """How many alternatives; the whole vocabulary is cut to eight."""
    return 8 if value == WHOLE_VOCABULARY else value


def _text(token: int) -> str:
    return chr(token) if token < 128 else f"w{token}"


def _given_first(model: Any, scores: Any, k: int) -> list[list[tuple[int, float, int]]]:
    """Per position (token, logprob, rank): the given token, then the rest of the best k, as vLLM orders them."""
    given = zip(scores.token_ids.tolist(), scores.logprobs.tolist(), scores.ranks.tolist(), strict=True)
    ids, logprobs, ranks, counts = (values.tolist() for values in model.alternatives(scores, k))
    return [
        [first, *zip(ids[at][:count], logprobs[at][:count], ranks[at][:count], strict=True)]
        for at, (first, count) in enumerate(zip(given, counts, strict=True))
    ]


async def main() -> None:
    """Serve until the runtime shuts down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--model-name", default="tito-model")
    parser.add_argument("--engine-model", type=Path, required=True, help="dynamo_tito/simulator/model.py")
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--namespace", default="dynamo")
    parser.add_argument("--component", default="backend")
    parser.add_argument("--context-length", type=int, default=262_144)
    parser.add_argument("--world-size", type=int, default=1)
    args = parser.parse_args()
    # A bug in the stand-in must not take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    configure_dynamo_logging()

    engine = Engine(args.control, args.record, load_model_module(args.engine_model))
    runtime, loop = create_runtime("file", "tcp", "zmq")
    generate = runtime.endpoint(f"{args.namespace}.{args.component}.generate")
    rl = runtime.endpoint(f"{args.namespace}.{args.component}.rl")
    registry = RLRouteRegistry(runtime, logger_=logger, world_size=args.world_size)
    register_rl_routes(runtime, registry, engine.routes(), enable_dispatch=True)

    config = ModelRuntimeConfig()
    config.context_length = args.context_length
    # What the frontend looks for before it offers /inference/v1/generate and SGLang's /generate for a model.
    config.set_engine_specific("vllm_inference_v1_generate", "true")
    config.set_engine_specific("sglang_generate", "true")
    await register_model(
        ModelInput.Tokens,
        ModelType.Chat | ModelType.Completions,
        generate,
        str(args.model_dir),
        args.model_name,
        worker_type=WorkerType.Aggregated,
        kv_cache_block_size=16,
        runtime_config=config,
    )

    async def dispatch(request: Any = None) -> AsyncIterator[Any]:
        async for reply in registry.dispatch_stream(request):
            yield reply

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.shutdown)
    await asyncio.gather(
        generate.serve_endpoint(engine.generate, graceful_shutdown=True, health_check_payload=None),
        rl.serve_endpoint(dispatch),
    )


if __name__ == "__main__":
    uvloop.run(main())
