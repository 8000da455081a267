"""Routed experts of an answer as bytes, whatever holds them: how many, and whether any is not zero."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_NPY = "k05VTVBZ"
_NPY_HEADER = slice(8, 10)


@dataclass(frozen=True, slots=True)
class Routing:
    """Attributes: ``form``, what holds them; ``size``, their bytes; ``all_zero``, whether nothing was captured."""

    form: str
    size: int
    all_zero: bool


def routing_of(body: bytes) -> Routing | None:
    """The routed experts of a decoded answer; None if there are none."""
    for value in _places(json.loads(body)):
        if isinstance(value, dict) and isinstance(value.get("data"), str):
            return _made(f"an object of {value.get('dtype', 'uint8')}", base64.b64decode(value["data"]))
        if isinstance(value, str) and value.startswith(_NPY):
            file = base64.b64decode(value)
            # Version 1 of the format: 8 bytes of magic and version, the header's length in 2, the header, the rows.
            rows = file[10 + int.from_bytes(file[_NPY_HEADER], "little") :]
            return _made("an npy file", rows)
        if isinstance(value, str):
            return _made("bare int32 rows", base64.b64decode(value))
    return None


def _made(form: str, rows: bytes) -> Routing:
    return Routing(form, len(rows), not any(rows))


def _places(document: Any) -> Iterator[Any]:
    nvext = _member(document, "nvext")
    yield _member(nvext, "routed_experts")
    yield _member(_member(nvext, "engine_data"), "routed_experts")
    choices = _member(document, "choices")
    yield _member(choices[0], "routed_experts") if isinstance(choices, list) and choices else None
    yield _member(_member(document, "meta_info"), "routed_experts")


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
