"""vLLM's streams: /inference/v1/generate, chat and completions, chunk by chunk.

Facts: recorded streams of 0.32.0 and 0.33.0; the stream generators of 0.31.0, 0.32.0 and 0.33.0.
"""

# Handlers are named for their routes.
# ruff: noqa: D102

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.encode import dumps, ids, routing_npy
from dynamo_tito.simulator.flight import Delta, Flight
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response
from dynamo_tito.simulator.stream import Event

from .vllm_errors import envelope
from .vllm_request import Sampling
from .vllm_text import VllmTextRoutes

__all__ = ["VllmStreams"]

GENERATE = "/inference/v1/generate"


class VllmStreams(VllmTextRoutes):
    """Mixed into a server."""

    def stream_error(self, call: Call, error: EngineError) -> bytes:
        # What the engine refuses or fails has one type, whatever the status.
        kinds = {"not_ready": "InternalServerError", "generation": "InternalServerError"}
        document = envelope(error)
        document["error"]["type"] = kinds.get(error.kind, document["error"]["type"])
        compact = self.since("0.33") and call.request.path != GENERATE
        return dumps(document) if compact else json.dumps(document).encode()

    # --- /inference/v1/generate ---

    async def stream_generate(self, call: Call, document: dict[str, Any], wanted: Sampling, *, text: bool) -> Response:
        flight = await self.take_off(call, wanted.ask, streams=True)
        return self.streamed(call, flight, self._generated(call, flight, document, wanted, text=text))

    async def _generated(
        self, call: Call, flight: Flight, document: dict[str, Any], wanted: Sampling, *, text: bool
    ) -> AsyncIterator[Event]:
        include, continuous = _usage_wanted(document)
        prompt = flight.plan[0].prompt_ids
        echo = {"prompt_token_ids": ids(prompt)} if document.get("return_token_ids") else {}
        counts = [0] * len(flight.plan)
        name, mode = {"request_id": self.id_of(call)}, "text" if text else "tokens"
        async for delta in flight.deltas():
            self._fail_if_error(delta)
            counts[delta.index] = delta.end
            if delta.begin == delta.end and not self.since("0.32") and not echo:
                continue  # 0.31 sends no chunk without tokens, not even the last
            end: dict[str, Any] = {}
            if delta.last:
                end = {
                    "finish_reason": self.finish_reason(delta.sample),
                    "stop_reason": delta.sample.stop_reason,
                    "routed_experts": await self._stream_routing(call, delta, wanted),
                    "weight_versions": self.spans(delta.sample),
                }
            usage = {"usage": _usage(len(prompt), delta.end, absent=True) if continuous else None}
            choices = [self.choice_of(delta.new, wanted, end, text=text)]
            yield Event(self._chunk(name, choices, usage, echo, mode), delta, masks=self.since("0.32"))
            echo = {}
        if include:
            yield Event(self._chunk(name, [], {"usage": _usage(len(prompt), sum(counts))}, {}, mode))

    def _chunk(
        self, name: dict[str, Any], choices: list[Any], usage: dict[str, Any], echo: dict[str, Any], mode: str
    ) -> dict[str, Any]:
        if not self.since("0.32"):
            return name | {"choices": choices} | usage | echo
        return name | usage | echo | {"output_mode": mode, "choices": choices}

    async def _stream_routing(self, call: Call, delta: Delta, wanted: Sampling) -> Any:
        # prime-rl's server leaves streams to vLLM: its container is vLLM's here.
        if not self.engine.routed(delta.sample):
            return None
        return routing_npy(await self.engine.rows(call, delta.sample, wanted.start))

    @staticmethod
    def _fail_if_error(delta: Delta) -> None:
        if delta.last and delta.sample.finish_reason == "error":
            raise EngineError(500, "Internal server error", kind="generation")

    # --- chat ---

    async def stream_chat(self, call: Call, document: dict[str, Any], wanted: Sampling) -> Response:
        flight = await self.take_off(call, wanted.ask, streams=True)
        return self.streamed(call, flight, self._chatted(call, flight, document, wanted))

    async def _chatted(
        self, call: Call, flight: Flight, document: dict[str, Any], wanted: Sampling
    ) -> AsyncIterator[Event]:
        include, continuous = _usage_wanted(document)
        head = {
            "id": self.id_of(call),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.engine.config.model,
        }
        mark = {} if self.fingerprint is None else {"system_fingerprint": self.fingerprint}
        tail = {"kv_transfer_params": None} if self.since("0.33") else {}
        prompt, begun = flight.plan[0].prompt_ids, False
        counts = [0] * len(flight.plan)

        def usage(completion: int) -> dict[str, Any]:
            return {"usage": _chat_usage(len(prompt), completion)} if continuous else {}

        async for delta in flight.deltas():
            if not begun:
                begun = True
                echo = {"prompt_token_ids": ids(prompt) if document.get("return_token_ids") else None}
                for sample in flight.plan:
                    yield Event(head | {"choices": [_role(sample)]} | usage(0) | echo | {"prompt_text": None})
            self._fail_if_error(delta)
            counts[delta.index] = delta.end
            if not delta.end and not self.since("0.33"):
                continue  # of a choice without tokens not even the end is said
            chunk = head | {"choices": [self._chat_choice(delta, document, wanted)]} | usage(delta.end)
            yield Event(chunk | (mark if delta.last and not include else {}) | tail, delta)
        if include:
            yield Event(head | {"choices": [], "usage": _usage(len(prompt), sum(counts))} | mark)

    def _chat_choice(self, delta: Delta, document: dict[str, Any], wanted: Sampling) -> dict[str, Any]:
        new, logprobs = delta.new, bool(document.get("logprobs"))
        if not self.since("0.32"):
            logprobs = logprobs and document.get("top_logprobs") is not None
        choice: dict[str, Any] = {
            "index": new.index,
            "delta": {"content": self.engine.tokenizer.decode(new.token_ids.tolist(), skip_special=True)},
            "logprobs": {"content": self.chat_content(new, wanted, document)} if logprobs else None,
            "finish_reason": self.finish_reason(new) if delta.last else None,
        }
        if delta.last:
            choice["stop_reason"] = new.stop_reason
        choice["token_ids"] = ids(new.token_ids) if document.get("return_token_ids") else None
        if delta.last and self.since("0.33"):
            choice["weight_versions"] = self.spans(delta.sample) if document.get("return_weight_versions") else None
        return choice

    # --- completions ---

    async def stream_completions(self, call: Call, document: dict[str, Any], wanted: list[Sampling]) -> Response:
        flight = await self.take_off(call, *(one.ask for one in wanted), streams=True)
        return self.streamed(call, flight, self._completed(call, flight, document, wanted[0]))

    async def _completed(
        self, call: Call, flight: Flight, document: dict[str, Any], wanted: Sampling
    ) -> AsyncIterator[Event]:
        include, continuous = _usage_wanted(document)
        head = {
            "id": self.id_of(call),
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.engine.config.model,
        }
        mark = {} if self.fingerprint is None else {"system_fingerprint": self.fingerprint}
        tail = {"kv_transfer_params": None} if self.since("0.33") else {}
        counts, letters = [0] * len(flight.plan), [0] * len(flight.plan)
        async for delta in flight.deltas():
            self._fail_if_error(delta)
            counts[delta.index] = delta.end
            if not delta.end and not self.since("0.33"):
                continue  # of a choice without tokens not even the end is said
            choice = self._completed_choice(delta, document, wanted, letters[delta.index])
            letters[delta.index] += len(choice["text"])
            chunk: dict[str, Any] = head | {"choices": [choice]}
            if continuous:
                chunk["usage"] = _usage(len(delta.sample.prompt_ids), delta.end)
            yield Event(chunk | (mark if delta.last and not include else {}) | tail, delta)
        if include:
            prompts = sum(len(sample.prompt_ids) for sample in flight.plan[:: wanted.ask.n])
            yield Event(head | {"choices": [], "usage": _usage(prompts, sum(counts))} | mark)

    def _completed_choice(
        self, delta: Delta, document: dict[str, Any], wanted: Sampling, letters: int
    ) -> dict[str, Any]:
        new, returned = delta.new, bool(document.get("return_token_ids"))
        logprobs = None if wanted.logprobs is None else self.text_logprobs(new, wanted.logprobs, offset=letters)
        choice = {
            "index": delta.index,
            "text": self.engine.tokenizer.decode(new.token_ids.tolist(), skip_special=True),
            "logprobs": logprobs,
            "finish_reason": self.finish_reason(new) if delta.last else None,
            "stop_reason": new.stop_reason,
            "prompt_token_ids": ids(new.prompt_ids) if returned and not delta.begin else None,
            "token_ids": ids(new.token_ids) if returned else None,
        }
        if self.since("0.33"):
            told = delta.last and document.get("return_weight_versions")
            choice["weight_versions"] = self.spans(delta.sample) if told else None
        return choice


def _role(sample: Sample) -> dict[str, Any]:
    """A choice before its first token."""
    role = {"role": "assistant", "content": ""}
    return {"index": sample.index, "delta": role, "logprobs": None, "finish_reason": None}


def _usage_wanted(document: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a last chunk says the counts, and whether each chunk does."""
    options = document.get("stream_options") or {}
    include = bool(options.get("include_usage"))
    return include, include and bool(options.get("continuous_usage_stats"))


def _usage(prompt: int, completion: int, *, absent: bool = False) -> dict[str, Any]:
    """Counts of tokens; with what is not counted as null."""
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return counts | dict.fromkeys(("prompt_tokens_details", "completion_tokens_details")) if absent else counts


def _chat_usage(prompt: int, completion: int) -> dict[str, Any]:
    return _usage(prompt, completion) | {"completion_tokens_details": None}
