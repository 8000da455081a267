"""A plain reader of streams: what a client sees of each choice, on every wire, without the package."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Seen", "documents", "joined"]


def documents(body: bytes) -> list[Any]:
    """What the `data` lines say, as JSON; `[DONE]` and frames of other kinds as they are."""
    found: list[Any] = []
    for frame in body.decode().split("\n\n"):
        if frame.startswith("data: {"):
            found.append(json.loads(frame.removeprefix("data: ")))
        elif frame:
            found.append(frame)
    return found


@dataclass
class Seen:
    """One choice, put together from its chunks."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Any = None
    #: What came in the chunk with the finish reason.
    routed_experts: Any = None
    spans: Any = None
    chunks: int = 0


def joined(body: bytes) -> dict[int, Seen]:
    """Each choice by its number."""
    seen: dict[int, Seen] = {}
    for document in documents(body):
        if not isinstance(document, dict) or "error" in document:
            continue
        if "meta_info" in document:
            _native(seen.setdefault(document.get("index", 0), Seen()), document)
        for choice in document.get("choices", ()):
            _choice(seen.setdefault(choice["index"], Seen()), choice, document.get("nvext") or {})
    return seen


def _native(seen: Seen, document: dict[str, Any]) -> None:
    info = document["meta_info"]
    seen.chunks += 1
    if len(document["output_ids"]) == info["completion_tokens"]:  # all so far
        seen.token_ids, seen.logprobs = [], []
    seen.token_ids += document["output_ids"]
    seen.logprobs += [triple[0] for triple in info.get("output_token_logprobs", ())]
    if info["finish_reason"] is not None:
        seen.finish = info["finish_reason"]["type"]
        seen.routed_experts, seen.spans = info.get("routed_experts"), info.get("weight_versions")


def _choice(seen: Seen, choice: dict[str, Any], extension: dict[str, Any]) -> None:
    seen.chunks += 1
    seen.token_ids += extension.get("completion_token_ids") or choice.get("token_ids") or []
    logprobs = choice.get("logprobs") or {}
    seen.logprobs += [entry["logprob"] for entry in logprobs.get("content", ())]
    seen.logprobs += logprobs.get("token_logprobs", ())
    if choice.get("finish_reason") is not None:
        seen.finish = extension.get("detailed_finish_reason") or choice["finish_reason"]
        seen.routed_experts = choice.get("routed_experts") or extension.get("routed_experts")
        seen.spans = choice.get("weight_versions")
