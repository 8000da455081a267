"""The cases of ``tests/cases``, and a completion in their format."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import dynamo_tito as tito
from dynamo_tito import Limits

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data"


def cases() -> Iterator[dict[str, Any]]:
    for path in sorted((TESTS / "cases").glob("*.jsonl")):
        yield from map(json.loads, path.read_text("utf-8").removesuffix("\n").split("\n"))


CASES = list(cases())


def body_of(case: dict[str, Any]) -> bytes:
    if "file" in case:
        return Path(DATA, case["file"]).read_bytes()
    if "body64" in case:
        return base64.b64decode(case["body64"])
    body: str = case["body"]
    return body.encode()


def listed(array: np.ndarray[Any, Any], dtype: Any) -> list[Any]:
    """The values; None for NaN and infinity."""
    assert array.dtype == dtype
    return [value if math.isfinite(value) else None for value in array.tolist()]


def shortened(values: list[int]) -> list[int] | dict[str, Any]:
    """More than 64 values by their count, both ends and their sum."""
    if len(values) <= 64:
        return values
    return {"count": len(values), "first": values[:4], "last": values[-4:], "sum": sum(values)}


def pairs(top: tito.TopLogprobs, dtype: Any) -> list[list[list[Any]]]:
    """The entries of each position."""
    ids, logprobs = listed(top.token_ids, np.int32), listed(top.logprobs, dtype)
    bounds = listed(top.offsets, np.int64)
    entries = [list(pair) for pair in zip(ids, logprobs, strict=True)]
    return [entries[start:end] for start, end in pairwise(bounds)]


def prompt_scores(prompt: tito.PromptLogprobs, dtype: Any) -> dict[str, Any]:
    return {"logprobs": listed(prompt.logprobs, dtype), "top": pairs(prompt.top, dtype)}


def experts(routed: tito.RoutedExperts, mode: str) -> dict[str, Any]:
    array = routed.array
    assert array.dtype == (routed.wire_dtype if mode == "native" else np.int32)
    return {
        "shape": list(array.shape),
        "start": routed.start,
        "dtype": routed.wire_dtype,
        "complete": routed.complete,
        "values": shortened(array.ravel().tolist()),
    }


def indexer(chosen: tito.IndexerTopk) -> dict[str, Any]:
    assert chosen.array.dtype == np.int32
    values = shortened(chosen.array.ravel().tolist())
    return {"shape": list(chosen.array.shape), "start": chosen.start, "complete": chosen.complete, "values": values}


def mask_rows(mask: tito.SamplingMask) -> list[list[int]]:
    ids, bounds = listed(mask.token_ids, np.int32), listed(mask.offsets, np.int64)
    return [ids[start:end] for start, end in pairwise(bounds)]


def optional(values: np.ndarray[Any, Any] | None, dtype: Any) -> list[Any] | None:
    return None if values is None else listed(values, dtype)


def matrix(array: np.ndarray[Any, Any] | None) -> list[list[Any]] | None:
    """The rows."""
    if array is None:
        return None
    values, width = listed(array.ravel(), np.float32), array.shape[1]
    return [values[at : at + width] for at in range(0, len(values), width)]


def written(completion: tito.Completion, mode: str, dtype: Any = np.float64) -> dict[str, Any]:
    """A completion as a case writes it: without what is None, and without index 0."""
    logprobs, echo, prompt = completion.logprobs, completion.prompt_token_ids, completion.prompt_logprobs
    top, routed, mask = completion.top_logprobs, completion.routed_experts, completion.sampling_mask
    found = {
        "token_ids": listed(completion.token_ids, np.int32),
        "logprobs": None if logprobs is None else listed(logprobs, dtype),
        "top_logprobs": None if top is None else pairs(top, dtype),
        "prompt_token_ids": None if echo is None else listed(echo, np.int32),
        "prompt_logprobs": None if prompt is None else prompt_scores(prompt, dtype),
        "routed_experts": None if routed is None else experts(routed, mode),
        "sampling_mask": None if mask is None else mask_rows(mask),
        "sampling_logprobs": optional(completion.sampling_logprobs, dtype),
        "indexer_topk": None if completion.indexer_topk is None else indexer(completion.indexer_topk),
        "prompt_token_id_logprobs": matrix(completion.prompt_token_id_logprobs),
        "engine": completion.engine,
        "index": completion.index or None,
        "sources": dict(completion.sources),
    }
    for name in ("finish_reason", "finish_reason_raw", "stop_reason", "aborted", "request_id", "usage"):
        found[name] = getattr(completion, name)
    found["weight_versions"] = completion.weight_versions
    return {name: value for name, value in found.items() if value is not None}


def text(completion: dict[str, Any]) -> list[str]:
    """Every field as JSON text, where 1 is not 1.0 and the order of ``usage`` counts."""
    fields = [f"{name}: {json.dumps(value)}" for name, value in completion.items() if name != "sources"]
    return sorted([*fields, f"sources: {json.dumps(completion.get('sources'), sort_keys=True)}"])


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    options = dict(case.get("options", {}))
    return options | {"limits": Limits(**options["limits"])} if "limits" in options else options


def streamed(case: dict[str, Any], pieces: Iterable[bytes]) -> list[tito.Completion]:
    """What comes of a stream that is fed in pieces."""
    decoder = tito.StreamDecoder(wire=case["wire"], **options_of(case))
    every, abandoned = case.get("choices") == "all", case["ending"] == "abandon"
    feed = decoder.feed_choices if every else decoder.feed
    try:
        for piece in pieces:
            feed(piece)
    except tito.ServerError:
        if not abandoned:
            raise
    if every:
        return decoder.abandon_choices() if abandoned else decoder.finish_choices()
    return [decoder.abandon() if abandoned else decoder.finish()]


def completions(case: dict[str, Any], body: bytes) -> list[tito.Completion]:
    if "ending" in case:
        return streamed(case, [body])
    if case.get("choices") == "all":
        return tito.decode_choices(body, wire=case["wire"], **options_of(case))
    return [tito.decode(body, wire=case["wire"], **options_of(case))]


def decoded(case: dict[str, Any], body: bytes) -> list[dict[str, Any]]:
    """The completions as a case writes them; of scoring the log-probabilities of the prompt only."""
    options = options_of(case)
    dtype = options.get("logprobs_dtype", "float64")
    if "score_from" in options:
        ids = options["prompt_token_ids"]
        kept = {name: options[name] for name in ("missing_logprob", "logprobs_dtype", "limits") if name in options}
        start = min(options["score_from"], len(ids))
        scores = tito.decode_prompt_logprobs(body, wire=case["wire"], prompt_token_ids=ids, start=start, **kept)
        return [{"prompt_logprobs": prompt_scores(scores, dtype)}]
    mode = options.get("experts", "int32")
    return [written(one, mode, dtype) for one in completions(case, body)]
