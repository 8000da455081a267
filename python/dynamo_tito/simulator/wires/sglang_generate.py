"""SGLang's native /generate: in one piece, and as cumulative or incremental events; Dynamo passes the latter on.

Facts: `srt/managers/tokenizer_manager.py` and `srt/entrypoints/http_server.py` of SGLang 0.5.23; recorded streams of
Dynamo's frontend.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Ask, Call, EngineError
from dynamo_tito.simulator.encode import array_of, dumps, f32_wide_text, ids, routing_bare
from dynamo_tito.simulator.flight import Flight
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response
from dynamo_tito.simulator.stream import Event

from .common import Entry, entries, integer, integers, prompt_entries, speculation
from .sglang_fields import flat_top, indexer_topk, sampled_from

__all__ = ["SglangGenerate"]


class SglangGenerate(App):
    """Mixed into a server."""

    async def whole(self, call: Call, document: dict[str, Any]) -> Response:
        """The answer in one piece; of several choices, a list."""
        flight = await self.take_off(call, document, streams=False)
        try:
            samples = await flight.whole()
        finally:
            flight.land()
        answers = [dumps(await self.answer(call, document, sample, sample)) for sample in samples]
        return Response(200, b"[" + b",".join(answers) + b"]" if len(answers) > 1 else answers[0])

    async def events(self, call: Call, document: dict[str, Any], *, deltas: bool) -> Response:
        """The answer in chunks, each with all tokens up to it or with the new ones alone."""
        flight = await self.take_off(call, document, streams=True)
        return self.streamed(call, flight, self._chunks(call, flight, document, deltas=deltas))

    async def _chunks(
        self, call: Call, flight: Flight, document: dict[str, Any], *, deltas: bool
    ) -> AsyncIterator[Event]:
        begun: set[int] = set()
        async for delta in flight.deltas():
            shown = delta.new if deltas else delta.so_far
            answer = await self.answer(call, document, shown, delta.sample if delta.last else None, made=delta.end)
            if delta.index not in begun:
                begun.add(delta.index)
                answer["meta_info"]["response_sent_to_client_ts"] = time.time()
            if len(flight.plan) > 1:
                answer["index"] = delta.index
            yield Event(answer, delta, cumulative=not deltas)

    async def take_off(self, call: Call, document: dict[str, Any], *, streams: bool) -> Flight:
        """Checks a request and begins to sample."""
        params = document.get("sampling_params") or {}
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
        if streams and document.get("return_flat_raw_output_top_logprobs"):
            raise EngineError(400, "return_flat_raw_output_top_logprobs does not support stream=True.")
        if integer(document, "logprob_start_len", -1, low=-1) > len(prompt):
            raise EngineError(400, f"logprob_start_len must not exceed the prompt length ({len(prompt)})")
        ask = Ask(
            prompt,
            integer(params, "max_new_tokens"),
            n=integer(params, "n", 1, low=1),
            seed=integer(params, "sampling_seed"),
            stop_token_ids=integers(params, "stop_token_ids"),
            ignore_eos=bool(params.get("ignore_eos")),
            min_tokens=integer(params, "min_new_tokens", 0),
        )
        flight = await self.engine.take_off(call, ask, streams=streams)
        flight.names = {self._name(call, document, index) for index in range(ask.n)}
        return flight

    def _name(self, call: Call, document: dict[str, Any], index: int) -> str:
        """The id of a choice: the client's, else one that the server makes."""
        return document.get("rid") or self.uuid(call).replace("-", "") + (f"{index:x}" if index else "")

    async def answer(
        self, call: Call, document: dict[str, Any], shown: Sample, ended: Sample | None, *, made: int | None = None
    ) -> dict[str, Any]:
        """Some tokens of a choice, of which there are `made`, and all of it if it has ended."""
        made = len(shown.token_ids) if made is None else made
        spans = shown.spans if ended is None else ended.spans
        info: dict[str, Any] = {
            "id": self._name(call, document, shown.index),
            "finish_reason": None if ended is None else _finish_reason(ended),
            "prompt_tokens": len(shown.prompt_ids),
            "weight_version": next(span["version"] for span in reversed(spans) if span["start"] < max(made, 1)),
            "num_retractions": 0,
        }
        if document.get("return_logprob"):
            info |= self._logprobs(document, shown, made)
        if document.get("return_sampling_mask"):
            info |= self._sampled_from(document, shown)
        info |= {"reasoning_tokens": 0, "completion_tokens": made, "cached_tokens": 0}
        if ended is not None:
            info["weight_versions"] = spans
            if document.get("return_routed_experts") and self.engine.routed(ended):
                start = integer(document, "routed_experts_start_len", 0)
                info["routed_experts"] = routing_bare(await self.engine.rows(call, ended, start))
            info |= self._told(document, ended)
        answer: dict[str, Any] = {
            "text": self.engine.tokenizer.decode(shown.token_ids.tolist(), skip_special=True),
            "output_ids": ids(shown.token_ids),
            "meta_info": info,
        }
        if document.get("return_prompt_token_ids"):
            answer["prompt_token_ids"] = ids(shown.prompt_ids)
        return answer

    def _told(self, document: dict[str, Any], sample: Sample) -> dict[str, Any]:
        """What a finished answer has beside its tokens."""
        config = self.engine.config
        told: dict[str, Any] = {"e2e_latency": 0.1}
        if document.get("return_indexer_topk") and config.num_indexer_layers and len(sample.token_ids):
            told |= indexer_topk(sample, config)
        if config.draft_tokens:
            told |= speculation(sample, config.draft_tokens)
        return told

    def _sampled_from(self, document: dict[str, Any], sample: Sample) -> dict[str, Any]:
        """Where top-k cuts: the tokens that it left."""
        left = (document.get("sampling_params") or {}).get("top_k") or -1
        if left < 1:
            return {}
        return sampled_from(entries(self.engine.model, sample.scores, left, f32_wide_text))

    def _logprobs(self, document: dict[str, Any], sample: Sample, made: int) -> dict[str, Any]:
        texts = bool(document.get("return_text_in_logprobs"))
        top = integer(document, "top_logprobs_num", 0)
        model = self.engine.model
        triple = self._triples(texts=texts)

        def best(row: list[Entry]) -> str:
            ranked = sorted(row, key=lambda entry: entry[2])[:top]
            return "[" + ",".join(map(triple, ranked)) + "]"

        packed = bool(document.get("return_flat_raw_top_logprobs_b64"))
        info: dict[str, Any] = {"input_token_logprobs": []}
        begin = integer(document, "logprob_start_len", -1, low=-1)
        if begin >= 0:
            rows = prompt_entries(model, sample.prompt_ids, sample.version, top, f32_wide_text)[begin:]
            # Whatever the start, the first has no value.
            first = triple((int(sample.prompt_ids[begin]), "null", 0)) if rows else None
            info["input_token_logprobs"] = array_of(
                [*([first] if first else []), *(triple(row[0]) for row in rows[1:])]
            )
            if top and rows and document.get("return_flat_raw_top_logprobs"):
                ranked = [sorted(row, key=lambda entry: entry[2])[:top] for row in rows]
                info |= flat_top("input", ranked, 1, packed=packed)
            elif top and rows:
                info["input_top_logprobs"] = array_of(["null", *(best(row) for row in rows[1:])])
        rows = entries(model, sample.scores, top, f32_wide_text)
        info["output_token_logprobs"] = array_of(triple(row[0]) for row in rows)
        info["output_token_logprobs_length"] = made
        if top and rows and document.get("return_flat_raw_output_top_logprobs"):
            ranked = [sorted(row, key=lambda entry: entry[2])[:top] for row in rows]
            info |= flat_top("output", ranked, 0, packed=packed)
        elif top:
            info["output_top_logprobs"] = array_of(map(best, rows))
        return info

    def _triples(self, *, texts: bool) -> Callable[[Entry], str]:
        piece = self.engine.tokenizer.piece

        def triple(entry: Entry) -> str:
            return f"[{entry[1]},{entry[0]},{piece(entry[0])[0] if texts else 'null'}]"

        return triple


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
