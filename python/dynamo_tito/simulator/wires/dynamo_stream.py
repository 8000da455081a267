"""Dynamo's streams of chat and completions: one choice a chunk, its `nvext` beside it.

Facts: recorded streams of 1.6.1 and 1.7.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo_tito.simulator.calls import Call
from dynamo_tito.simulator.flight import Delta, Flight
from dynamo_tito.simulator.response import Response
from dynamo_tito.simulator.stream import Event

from .dynamo_answers import DynamoAnswers, openai_reason
from .dynamo_request import Streaming, Wanted

__all__ = ["DynamoStreams"]


class DynamoStreams(DynamoAnswers):
    """Mixed into a server."""

    async def stream_chat(self, call: Call, wanted: Wanted, options: Streaming) -> Response:
        """A chat completion in chunks."""
        flight = await self.engine.take_off(call, *wanted.asks, streams=True)
        return self.streamed(call, flight, self._chat_chunks(call, flight, wanted, options))

    async def stream_completions(self, call: Call, wanted: Wanted, options: Streaming) -> Response:
        """A text completion in chunks."""
        flight = await self.engine.take_off(call, *wanted.asks, streams=True)
        return self.streamed(call, flight, self._text_chunks(call, flight, wanted, options))

    async def _chat_chunks(
        self, call: Call, flight: Flight, wanted: Wanted, options: Streaming
    ) -> AsyncIterator[Event]:
        head = {"id": f"chatcmpl-{self.uuid(call)}"}
        tail = {"created": int(time.time()), "model": self.engine.config.model, "object": "chat.completion.chunk"}
        counts = _Counts(flight, {"cached_tokens": 0})
        if options.prompt is not None:
            text = json.dumps(options.prompt, ensure_ascii=False)
            yield Event(None, frame=f"event: formatted_prompt\n: {text}\n\n".encode())
        async for delta in flight.deltas():
            new = delta.new
            role = {} if delta.begin else {"role": "assistant"}
            choice = {
                "index": delta.index,
                "delta": {"content": self.text(new), **role} if len(new.token_ids) else role,
                "finish_reason": openai_reason(new) if delta.last else None,
                "logprobs": self.chat_logprobs(new, wanted) if len(new.token_ids) else None,
            }
            chunk = head | {"choices": [choice]} | tail
            counts.add(delta)
            if options.continuous:
                chunk["usage"] = counts.usage(last=delta.last)
            if extension := await self.extension(call, wanted, delta.sample, delta):
                chunk["nvext"] = extension
            yield Event(chunk, delta)
        if options.usage:
            yield Event(head | {"choices": []} | tail | {"usage": counts.usage(last=True)})

    async def _text_chunks(
        self, call: Call, flight: Flight, wanted: Wanted, options: Streaming
    ) -> AsyncIterator[Event]:
        head = {"id": f"cmpl-{self.uuid(call)}"}
        tail = {
            "created": int(time.time()),
            "model": self.engine.config.model,
            "system_fingerprint": None,
            "object": "text_completion",
        }
        counts = _Counts(flight, {"audio_tokens": None, "cached_tokens": 0})
        async for delta in flight.deltas():
            new = delta.new
            choice: dict[str, Any] = {"text": self.text(new), "index": delta.index}
            if wanted.logprobs is not None and len(new.token_ids):
                choice["logprobs"] = self.text_logprobs(new, wanted.logprobs)
            if delta.last:
                choice["finish_reason"] = openai_reason(new)
            counts.add(delta)
            usage = counts.usage(last=delta.last) if options.continuous else None
            chunk = head | {"choices": [choice]} | tail | {"usage": usage}
            if extension := await self.extension(call, wanted, delta.sample, delta):
                chunk["nvext"] = extension
            yield Event(chunk, delta)
        if options.usage:
            yield Event(head | {"choices": []} | tail | {"usage": counts.usage(last=True)})


class _Counts:
    """The tokens of a stream so far, over all choices."""

    def __init__(self, flight: Flight, details: dict[str, Any]) -> None:
        # Of a batch of prompts the frontend adds each prompt once.
        prompts = {sample.prompt_ids.tobytes(): len(sample.prompt_ids) for sample in flight.plan}
        self._prompt, self._details, self._completion = sum(prompts.values()), details, 0

    def add(self, delta: Delta) -> None:
        self._completion += delta.end - delta.begin

    def usage(self, *, last: bool) -> dict[str, Any]:
        """The counts; what the worker says at the end of a choice is beside them then."""
        counts = {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
        }
        return counts | {"prompt_tokens_details": self._details} if last else counts
