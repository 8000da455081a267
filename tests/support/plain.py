"""Decoding by hand with json, base64 and numpy. The library is measured against it, on the same bytes."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np

from dynamo_tito._types import Float64Array, Int32Array, Wire


def decode(
    body: bytes, *, wire: Wire, first: int = 0, num_layers: int | None = None, top_k: int | None = None
) -> tuple[Int32Array, Float64Array, Int32Array]:
    """Token ids, log-probabilities, and routed experts from row ``first`` on, of an answer with one choice."""
    document = json.loads(body)
    ids, logprobs, blob = _PICK[wire](document)
    experts = _rows(blob, num_layers, top_k)
    return np.array(ids, np.int32), np.array(logprobs, np.float64), experts[first:].astype(np.int32)


def _rows(blob: Any, num_layers: Any, top_k: Any) -> Any:
    if isinstance(blob, dict):
        return np.frombuffer(base64.b64decode(blob["data"]), blob["dtype"]).reshape(blob["shape"])
    raw = base64.b64decode(blob)
    if raw.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(raw), allow_pickle=False)
    return np.frombuffer(raw, "<i4").reshape(-1, num_layers, top_k)


def _dynamo_chat(document: Any) -> tuple[Any, Any, Any]:
    data = document["nvext"]["engine_data"]
    logprobs = data.get("completion_logprobs")
    if logprobs is None:
        logprobs = [entry["logprob"] for entry in document["choices"][0]["logprobs"]["content"]]
    return data["completion_token_ids"], logprobs, data["routed_experts"]


def _dynamo_completions(document: Any) -> tuple[Any, Any, Any]:
    data = document["nvext"]["engine_data"]
    return data["completion_token_ids"], document["choices"][0]["logprobs"]["token_logprobs"], data["routed_experts"]


def _vllm(document: Any) -> tuple[Any, Any, Any]:
    choice = document["choices"][0]
    return (
        choice["token_ids"],
        [entry["logprob"] for entry in choice["logprobs"]["content"]],
        choice["routed_experts"],
    )


def _sglang(document: Any) -> tuple[Any, Any, Any]:
    meta = document["meta_info"]
    return document["output_ids"], [triple[0] for triple in meta["output_token_logprobs"]], meta["routed_experts"]


_PICK = {
    "dynamo_chat": _dynamo_chat,
    "dynamo_completions": _dynamo_completions,
    "vllm_generate": _vllm,
    "vllm_chat": _vllm,
    "sglang_generate": _sglang,
}
