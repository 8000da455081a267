"""Compares two JSON documents by shape: keys, their order, types, containers, dtypes; not the values of an engine."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

# Objects whose keys are tokens.
_MAPS = ("top_logprobs", "prompt_logprobs")


def differences(ours: Any, recorded: Any, path: str = "") -> Iterator[str]:
    """One line per place where the shapes differ."""
    name = path.rpartition(".")[2].partition("[")[0]
    if type(ours) is not type(recorded):
        yield f"{path}: {_brief(ours)} instead of {_brief(recorded)}"
    elif isinstance(ours, dict) and name in _MAPS:
        yield from _map_differences(ours, recorded, path)
    elif isinstance(ours, dict):
        yield from _object_differences(ours, recorded, path)
    elif isinstance(ours, list):
        # How many alternatives a position has depends on the rank of the sampled token.
        if len(ours) != len(recorded) and name not in ("top_logprobs", "bytes"):
            yield f"{path}: {len(ours)} elements instead of {len(recorded)}"
        for number, (mine, theirs) in enumerate(zip(ours, recorded, strict=False)):
            yield from differences(mine, theirs, f"{path}[{number}]")
    elif isinstance(ours, str) and name in ("routed_experts", "data"):
        mine, theirs = (len(base64.b64decode(text, validate=True)) for text in (ours, recorded))
        if mine != theirs:
            yield f"{path}: {mine} bytes instead of {theirs}"


def _object_differences(ours: dict[str, Any], recorded: dict[str, Any], path: str) -> Iterator[str]:
    if list(ours) != list(recorded):
        yield f"{path}: keys {list(ours)} instead of {list(recorded)}"
    for key in ours.keys() & recorded.keys():
        yield from differences(ours[key], recorded[key], f"{path}.{key}")
    if "dtype" in ours:
        for key in ("shape", "start", "dtype"):
            if ours.get(key) != recorded.get(key):
                yield f"{path}.{key}: {ours.get(key)} instead of {recorded.get(key)}"


def _map_differences(ours: dict[str, Any], recorded: dict[str, Any], path: str) -> Iterator[str]:
    """Keys are tokens: only their kind and what they point to can agree."""
    for test in (str.isdecimal, str.isascii):
        if all(map(test, recorded)) and not all(map(test, ours)):
            yield f"{path}: keys {list(ours)} are of another kind than {list(recorded)}"
    kinds = {json.dumps(_kind(value)) for value in recorded.values()}
    for key, value in ours.items():
        if json.dumps(_kind(value)) not in kinds:
            yield f"{path}.{key}: {_kind(value)} instead of one of {kinds}"


def _kind(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kind(item) for key, item in value.items()}
    return type(value).__name__


def _brief(value: Any) -> str:
    return f"{type(value).__name__} {json.dumps(value)[:60]}"
