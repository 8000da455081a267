"""A slow, obvious reading of a response, to compare decoding with.

It takes the body for granted: ``json.loads``, lists, and one pass per rule. It checks nothing, so it is only asked
about bodies that decoding accepted, or whose contents are known.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dynamo_tito._types import (
    Completion,
    ExpertsArray,
    Float64Array,
    Int32Array,
    Int64Array,
    PromptLogprobs,
    RoutedExperts,
    SamplingMask,
    TopLogprobs,
    Wire,
    WireDtype,
)

NO_EVIDENCE = (-9999.0, -1e30, float(np.float32(-1e30)))
ABORTS = ("abort", "aborted", "cancelled", "canceled")
FINISH = {"eos": "stop"} | dict.fromkeys(ABORTS, "abort")


def read(
    body: bytes,
    *,
    wire: Wire,
    prompt_len: int | None = None,
    prompt_token_ids: list[int] | None = None,
    routed_experts_prompt_start: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
) -> list[Completion]:
    """Every choice of a body, by index."""
    document = json.loads(body)
    reading = _Reading(
        wire=wire,
        ids=prompt_token_ids,
        prompt_len=len(prompt_token_ids) if prompt_len is None and prompt_token_ids is not None else prompt_len,
        first=routed_experts_prompt_start or 0,
        row=(num_layers, top_k),
    )
    if wire == "sglang_generate":
        answers = document if isinstance(document, list) else [document]
        several = isinstance(document, list)
        return [reading.sglang(answer, index, f"[{index}]." if several else "") for index, answer in enumerate(answers)]
    choices = document["choices"]
    if wire in ("dynamo_chat", "dynamo_completions"):
        return [reading.dynamo(document, choices[0])]
    completions = [reading.vllm(document, choice, index) for index, choice in enumerate(choices)]
    return sorted(completions, key=lambda completion: completion.index)


class _Reading:
    def __init__(
        self,
        *,
        wire: Wire,
        ids: list[int] | None,
        prompt_len: int | None,
        first: int,
        row: tuple[int | None, int | None],
    ) -> None:
        self.wire = wire
        self.ids = ids
        self.prompt_len = prompt_len
        self.first = first
        self.row = row

    def vllm(self, document: Any, choice: Any, position: int) -> Completion:
        at = f"choices[{position}]"
        tokens = choice["token_ids"]
        sources = {"token_ids": f"{at}.token_ids"}
        content = (choice.get("logprobs") or {}).get("content")
        logprobs = [entry["logprob"] for entry in content] if content is not None else ([] if not tokens else None)
        if content is not None:
            sources["logprobs"] = f"{at}.logprobs.content"
        top = self._top(content, tokens, f"{at}.logprobs.content", sources)
        echo, prompt = self._prompt(
            [("prompt_token_ids", document.get("prompt_token_ids"))],
            [("prompt_logprobs", document.get("prompt_logprobs"))],
            sources,
        )
        raw = choice.get("finish_reason")
        routed = self._routed(
            choice.get("routed_experts"), tokens, f"{at}.routed_experts", sources, aborted=_aborted(raw), echo=echo
        )
        mask = self._mask(choice.get("sampling_mask"), f"{at}.sampling_mask", sources)
        request_id = document.get("request_id" if self.wire == "vllm_generate" else "id")
        index = choice.get("index")
        return Completion(
            _int32(tokens),
            _floats(logprobs),
            top,
            echo,
            prompt,
            routed,
            mask,
            _finish(raw),
            raw,
            choice.get("stop_reason"),
            _aborted(raw),
            request_id,
            position if index is None else index,
            document.get("usage"),
            choice.get("weight_versions"),
            sources,
        )

    def dynamo(self, document: Any, choice: Any) -> Completion:
        nvext = document.get("nvext") or {}
        engine = nvext.get("engine_data") or {}
        sources: dict[str, str] = {}
        tokens = _first(
            "token_ids",
            [
                ("nvext.engine_data.completion_token_ids", engine.get("completion_token_ids")),
                ("nvext.completion_token_ids", nvext.get("completion_token_ids")),
                ("choices[0].token_ids", choice.get("token_ids")),
            ],
            sources,
        )
        inner = choice.get("logprobs") or {}
        content = inner.get("content") if self.wire == "dynamo_chat" else None
        in_choice = [entry["logprob"] for entry in content] if content is not None else inner.get("token_logprobs")
        channel = "content" if self.wire == "dynamo_chat" else "token_logprobs"
        logprobs = _first(
            "logprobs",
            [
                ("nvext.engine_data.completion_logprobs", engine.get("completion_logprobs")),
                (f"choices[0].logprobs.{channel}", in_choice),
            ],
            sources,
        )
        if logprobs is None and not tokens:
            logprobs = []
        top = self._top(content, tokens, "choices[0].logprobs.content", sources)
        engine_logprobs = sources.get("logprobs") == "nvext.engine_data.completion_logprobs"
        names = {"content": content if engine_logprobs else None, "tokens": inner.get("tokens")}
        beside = "content" if self.wire == "dynamo_chat" else "tokens"
        if (named := names[beside]) is not None and len(named) != len(tokens):
            why = f"choices[0].logprobs.{beside} has {len(named)} entries for {len(tokens)} token ids"
            sources["logprobs_echo"] = f"left out: {why}"
        echo, prompt = self._prompt(
            [
                ("nvext.engine_data.prompt_token_ids", engine.get("prompt_token_ids")),
                ("nvext.prompt_token_ids", nvext.get("prompt_token_ids")),
            ],
            [
                ("nvext.engine_data.prompt_logprobs", engine.get("prompt_logprobs")),
                ("nvext.prompt_logprobs", nvext.get("prompt_logprobs")),
                ("prompt_logprobs", document.get("prompt_logprobs")),
            ],
            sources,
        )
        detailed = nvext.get("detailed_finish_reason")
        raw = choice.get("finish_reason")
        told = raw if detailed is None else detailed
        aborted = True if raw in ABORTS else _aborted(detailed)
        blobs = [
            ("nvext.routed_experts", nvext.get("routed_experts")),
            ("nvext.engine_data.routed_experts", engine.get("routed_experts")),
        ]
        blobs.sort(key=lambda blob: (not isinstance(blob[1], dict), not isinstance(blob[1], str)))
        routed = self._routed(blobs[0][1], tokens, blobs[0][0], sources, aborted=aborted, echo=echo)
        mask = self._mask(engine.get("sampling_mask"), "nvext.engine_data.sampling_mask", sources)
        stop = choice.get("stop_reason")
        index = choice.get("index")
        return Completion(
            _int32(tokens),
            _floats(logprobs),
            top,
            echo,
            prompt,
            routed,
            mask,
            _finish(told),
            told,
            nvext.get("stop_reason") if stop is None else stop,
            aborted,
            document.get("id"),
            0 if index is None else index,
            document.get("usage"),
            choice.get("weight_versions"),
            sources,
        )

    def sglang(self, answer: Any, index: int, base: str) -> Completion:
        meta = answer["meta_info"]
        tokens = answer["output_ids"]
        sources = {"token_ids": f"{base}output_ids"}
        triples = meta.get("output_token_logprobs")
        logprobs = [triple[0] for triple in triples] if triples is not None else ([] if not tokens else None)
        if triples is not None:
            sources["logprobs"] = f"{base}meta_info.output_token_logprobs"
        rows = meta.get("output_top_logprobs")
        top = None
        if rows is not None and any(rows):
            sources["top_logprobs"] = f"{base}meta_info.output_top_logprobs"
            top = _ragged([[(token, _score(value)) for value, token, *_ in row or ()] for row in rows])
        echo, prompt = self._prompt(
            [(f"{base}prompt_token_ids", answer.get("prompt_token_ids"))],
            [(f"{base}meta_info.input_token_logprobs", meta.get("input_token_logprobs") or None)],
            sources,
        )
        finish = meta.get("finish_reason") or {}
        raw = finish.get("type")
        routed = self._routed(
            meta.get("routed_experts"),
            tokens,
            f"{base}meta_info.routed_experts",
            sources,
            aborted=_aborted(raw),
            echo=echo,
        )
        mask = self._mask(
            meta.get("output_token_sampling_mask"), f"{base}meta_info.output_token_sampling_mask", sources
        )
        matched = finish.get("matched")
        counts = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        version = meta.get("weight_version")
        spans = meta.get("weight_versions")
        if spans is None and version is not None:
            spans = [{"version": version}]
        return Completion(
            _int32(tokens),
            _floats(logprobs),
            top,
            echo,
            prompt,
            routed,
            mask,
            _finish(raw),
            raw,
            matched if isinstance(matched, int | str) else None,
            _aborted(raw),
            meta.get("id"),
            index,
            {name: meta[name] for name in counts if meta.get(name) is not None} or None,
            spans,
            sources,
        )

    def _top(self, content: Any, tokens: list[int], at: str, sources: dict[str, str]) -> TopLogprobs | None:
        if content is None or len(content) != len(tokens):
            return None
        rows = [
            [
                (_identity(alternative), _score(alternative["logprob"]))
                for alternative in entry.get("top_logprobs") or ()
            ]
            for entry in content
        ]
        if not any(rows) or any(token is None for row in rows for token, _ in row):
            return None
        sources["top_logprobs"] = f"{at}[].top_logprobs"
        return _ragged([[(token, value) for token, value in row if token is not None] for row in rows])

    def _prompt(
        self, echoes: list[tuple[str, Any]], scores: list[tuple[str, Any]], sources: dict[str, str]
    ) -> tuple[Int32Array | None, PromptLogprobs | None]:
        echo = _first("prompt_token_ids", echoes, sources)
        ids = echo if self.ids is None else self.ids
        found = _first("prompt_logprobs", scores, sources)
        if found is None:
            return _optional(echo), None
        if ids is None:
            sources["prompt_logprobs"] = UNREAD_PROMPT_LOGPROBS
            return _optional(echo), None
        logprobs, rows = [], []
        for token, entries in zip(ids, found, strict=True):
            if isinstance(entries, list):  # SGLang: [logprob, id, text]
                pairs = [] if entries[0] is None else [(entries[1], _score(entries[0]))]
                own = _score(entries[0])
            else:
                pairs = [(int(key), _score(entry["logprob"])) for key, entry in (entries or {}).items()]
                own = dict(pairs).get(token, math.nan)
            logprobs.append(own)
            rows.append(sorted(pairs, key=lambda pair: (math.isnan(pair[1]), -pair[1], pair[0])))
        return _optional(echo), PromptLogprobs(np.array(logprobs, np.float64), _ragged(rows))

    def _mask(self, rows: Any, at: str, sources: dict[str, str]) -> SamplingMask | None:
        if rows is None:
            return None
        sources["sampling_mask"] = at
        return SamplingMask(_int32(token for row in rows for token in row), _offsets(rows))

    def _routed(
        self,
        blob: Any,
        tokens: list[int],
        at: str,
        sources: dict[str, str],
        *,
        aborted: bool | None,
        echo: Int32Array | None,
    ) -> RoutedExperts | None:
        if blob is None:
            return None
        sources["routed_experts"] = at
        array, start, dtype = container(blob, self.row)
        prompt_len = len(echo) if self.prompt_len is None and echo is not None else self.prompt_len
        expected = None if prompt_len is None else prompt_len + len(tokens) - 1
        if self.first:
            whole = start == 0 if isinstance(blob, dict) else len(array) == expected
            array = array[self.first :] if whole else array
            start = self.first
        complete = start == self.first and (expected is None or start + len(array) == expected or not aborted)
        return RoutedExperts(array.astype(np.int32), start, dtype, complete)


UNREAD_PROMPT_LOGPROBS = "left out: needs prompt_token_ids"


def container(blob: Any, row: tuple[int | None, int | None]) -> tuple[ExpertsArray, int, WireDtype]:
    """Expert ids as they were sent, the position of their first row, and their width."""
    if isinstance(blob, dict):
        dtype: WireDtype = blob.get("dtype") or "uint8"
        array = np.frombuffer(base64.b64decode(blob["data"]), dtype).reshape(blob["shape"])
        return array, blob.get("start") or 0, dtype
    raw = base64.b64decode(blob)
    if raw.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(raw), allow_pickle=False)
        return array, 0, array.dtype.name
    layers, top_k = row
    assert layers is not None
    assert top_k is not None
    return np.frombuffer(raw, "<i4").reshape(-1, layers, top_k), 0, "int32"


def _first(name: str, channels: list[tuple[str, Any]], sources: dict[str, str]) -> Any:
    for path, value in channels:
        if value is not None:
            sources[name] = path
            return value
    return None


def _identity(entry: dict[str, Any]) -> int | None:
    token = entry.get("token") or ""
    number = token.removeprefix("token_id:")
    if token != number and number.isdecimal() and str(int(number)) == number:
        return int(number)
    return entry.get("token_id")


def _score(value: float | None) -> float:
    return math.nan if value is None or value in NO_EVIDENCE else float(value)


def _aborted(reason: str | None) -> bool | None:
    """On a wire whose finish reason tells."""
    return None if reason is None else reason in ABORTS


def _finish(reason: str | None) -> str | None:
    return None if reason is None else FINISH.get(reason, reason)


def _int32(values: Iterable[int]) -> Int32Array:
    return np.array(list(values), np.int32)


def _optional(values: list[int] | None) -> Int32Array | None:
    return None if values is None else _int32(values)


def _floats(values: list[float | None] | None) -> Float64Array | None:
    return None if values is None else np.array([_score(value) for value in values], np.float64)


def _offsets(rows: list[Any]) -> Int64Array:
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)


def _ragged(rows: list[list[tuple[int, float]]]) -> TopLogprobs:
    flat = [pair for row in rows for pair in row]
    return TopLogprobs(
        _int32(token for token, _ in flat), np.array([value for _, value in flat], np.float64), _offsets(rows)
    )
