"""The parts of Dynamo's answers, in one piece or in chunks: texts, log-probabilities and `nvext`."""

from __future__ import annotations

import random
import time
from typing import Any

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Call
from dynamo_tito.simulator.encode import (
    Raw,
    array_of,
    f32_text,
    f32_wide_text,
    f64_text,
    ids,
    routing_bare,
    routing_object,
)
from dynamo_tito.simulator.flight import Delta
from dynamo_tito.simulator.model import Sample

from . import dynamo_upload
from .common import Entry, Numbers, entries, prompt_entries, prompt_maps
from .dynamo_request import Wanted

__all__ = ["DynamoAnswers", "openai_reason", "usage"]

# Chat and completions know no abort.
_OPENAI_REASONS = {"abort": "stop", "cancelled": "stop", "eos": "stop"}


class DynamoAnswers(App):
    """Mixed into a server."""

    def text(self, sample: Sample) -> str:
        """The text of some tokens."""
        tokens = sample.token_ids.tolist()
        if sample.stop_reason is not None and tokens and tokens[-1] == sample.stop_reason:
            tokens.pop()  # a stop token is among the ids and not in the text
        return self.engine.tokenizer.decode(tokens, skip_special=True)

    def chat_logprobs(self, sample: Sample, wanted: Wanted) -> dict[str, Any] | None:
        """`logprobs` of chat; null if they were not asked for."""
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

    def text_logprobs(self, sample: Sample, k: int) -> dict[str, Any]:
        """`logprobs` of completions: lists beside each other."""
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

    def prompt_logprobs(self, call: Call, sample: Sample, k: int, numbers: Numbers, *, shuffled: bool) -> Raw:
        """The prompt's maps; their keys come in no stable order where the frontend has made hash maps of them."""
        piece = self.engine.tokenizer.piece

        def write(place: int, entry: Entry) -> str:
            decoded = f',"decoded_token":{piece(entry[0])[0]}' if place else ""
            return f'{{"logprob":{entry[1]},"rank":{entry[2]}{decoded}}}'

        # The same order wherever this answer writes the maps: they are copies of one hash map.
        shuffle = random.Random(call.record.number) if shuffled else None  # noqa: S311 - repeatable by design
        return prompt_maps(
            prompt_entries(self.engine.model, sample.prompt_ids, sample.version, k, numbers), write, shuffle=shuffle
        )

    async def extension(self, call: Call, wanted: Wanted, sample: Sample, delta: Delta | None = None) -> dict[str, Any]:
        """`nvext` of a choice: of all of it, or of a chunk."""
        fields, new = wanted.extra_fields, sample if delta is None else delta.new
        # The frontend merges the chunks' extensions: what the first chunk brings comes first.
        first: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        if "worker_id" in fields:
            first["worker_id"] = dict.fromkeys(("prefill_worker_id", "decode_worker_id"), self.engine.instance_id)
        if "completion_token_ids" in fields and (delta is None or len(new.token_ids)):
            named = {"completion_token_ids": ids(new.token_ids)}
            merged = delta is None and len(sample.token_ids) > 1
            first |= named if merged or (delta is not None and not delta.last) else {}
            rest |= {} if first.keys() & named.keys() else named
        if delta is not None and not delta.last:
            return first
        if "timing" in fields:
            first["timing"] = {
                "request_received_ms": int(time.time() * 1e3), "prefill_wait_time_ms": 0.1, "prefill_time_ms": 1.25,
                "ttft_ms": 1.35, "total_time_ms": 2.5,
            }  # fmt: skip
        first |= await self._captured(call, wanted, sample)
        if "stop_reason" in fields and sample.stop_reason is not None:
            first["stop_reason"] = sample.stop_reason
        if "detailed_finish_reason" in fields:
            first["detailed_finish_reason"] = "cancelled" if sample.finish_reason == "abort" else sample.finish_reason
        if "prompt_logprobs" in fields and wanted.prompt_logprobs is not None:
            rest["prompt_logprobs"] = self.prompt_logprobs(
                call, sample, wanted.prompt_logprobs, f32_wide_text, shuffled=True
            )
        return first | rest

    async def _captured(self, call: Call, wanted: Wanted, sample: Sample) -> dict[str, Any]:
        """What the engine has of the whole choice."""
        fields = wanted.extra_fields
        found: dict[str, Any] = {}
        routing = await self.routing(call, sample, wanted) if fields & {"routed_experts", "engine_data"} else None
        if "routed_experts" in fields and routing is not None:
            found["routed_experts"] = routing
        upload = None if wanted.artifact is None else await self._upload(call, wanted, sample, wanted.artifact)
        if "engine_data" in fields:
            found["engine_data"] = self._engine_data(call, wanted, sample, routing, upload)
        if upload is not None:
            found["metadata_upload"] = upload
        return found

    async def _upload(self, call: Call, wanted: Wanted, sample: Sample, contents: frozenset[str]) -> Any:
        routed = "moe_routes" in contents and self.engine.routed(sample)
        rows = await self.engine.rows(call, sample, 0) if routed else None
        return dynamo_upload.answer(sample, contents, dynamo_upload.width(wanted.logprobs), rows)

    def _engine_data(self, call: Call, wanted: Wanted, sample: Sample, routing: Any, upload: Any) -> dict[str, Any]:
        data: dict[str, Any] = {"prompt_token_ids": ids(sample.prompt_ids)}
        if wanted.asks[0].n == 1:
            data["kv_cache_hit"] = {"prompt_tokens": len(sample.prompt_ids), "reused_tokens": 0}
        if wanted.prompt_logprobs is not None:
            data["prompt_logprobs"] = self.prompt_logprobs(
                call, sample, wanted.prompt_logprobs, f64_text, shuffled=False
            )
        if routing is not None:
            data["routed_experts"] = routing
        if upload is not None:
            data["metadata_upload"] = upload
        data["completion_token_ids"] = ids(sample.token_ids)
        data["finished"] = True
        if wanted.logprobs is not None and len(sample.token_ids):
            data["completion_logprobs"] = array_of(f64_text(sample.logprobs))
        return data

    async def routing(self, call: Call, sample: Sample, wanted: Wanted) -> Any:
        """Routed experts in the container of the worker."""
        if not self.engine.routed(sample):
            return None
        rows = await self.engine.rows(call, sample, min(wanted.start, len(sample.prompt_ids)))
        if self.engine.config.routed_experts_container == "bare":
            return routing_bare(rows)
        return routing_object(rows, min(wanted.start, len(sample.prompt_ids)))

    def token_logprobs(self, sample: Sample, k: int) -> dict[str, Any]:
        """`logprobs` of /inference/v1/generate."""
        placeholder = self.engine.tokenizer.placeholder

        def entry(item: Entry) -> str:
            name, data = placeholder(item[0])
            return f'"token":{name},"logprob":{item[1]},"bytes":{data}'

        def content(row: list[Entry]) -> str:
            return f'{{{entry(row[0])},"top_logprobs":[{",".join(f"{{{entry(item)}}}" for item in row)}]}}'

        return {"content": array_of(map(content, entries(self.engine.model, sample.scores, k, f32_wide_text)))}


def openai_reason(sample: Sample) -> str:
    """The finish reason of chat and completions."""
    return _OPENAI_REASONS.get(sample.finish_reason, sample.finish_reason)


def usage(samples: list[Sample], details: dict[str, Any]) -> dict[str, Any]:
    """Counts of tokens."""
    # Of a batch of prompts the frontend adds each prompt once.
    prompts = {sample.prompt_ids.tobytes(): len(sample.prompt_ids) for sample in samples}
    prompt, completion = sum(prompts.values()), sum(len(sample.token_ids) for sample in samples)
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }  # fmt: skip
