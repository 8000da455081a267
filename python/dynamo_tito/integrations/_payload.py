"""Routed experts as they stand in an answer: base64 text that the trainer decodes, with its shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_KEY = b'"routed_experts"'
_DATA = b'"data"'
_SPACE = b" \t\r\n"
_NULL = b"null"


def payload_in(body: bytes) -> dict[str, Any] | None:
    """The object ``{"data", "shape", ...}`` of the answer's routed experts, ``data`` a view of the body.

    Nothing is copied and no base64 is decoded. None where the answer has no such object, or more than one; another
    form of routed experts is none either.
    """
    values = [at for at in _values(body) if not body.startswith(_NULL, at)]
    if len(values) != 1 or body[values[0] : values[0] + 1] != b"{":
        return None
    return _object(body, values[0])


def has_payload(body: bytes) -> bool:
    """Whether the answer has routed experts in any form."""
    return any(not body.startswith(_NULL, at) for at in _values(body))


def rows_of(payload: dict[str, Any]) -> int | None:
    """The position after the last row of a payload; None where its shape and the length of its text disagree."""
    try:
        rows, layers, slots = (int(size) for size in payload["shape"])
        width = {"uint8": 1, "uint16": 2, "int16": 2, "int32": 4}[payload.get("dtype") or "uint8"]
        start, size = int(payload.get("start") or 0), rows * layers * slots * width
    except (KeyError, TypeError, ValueError):
        return None
    text = payload["data"]
    return start + rows if len(text) == (size + 2) // 3 * 4 else None


def _values(body: bytes) -> Iterator[int]:
    """Where the values of the key begin. Within a string its quotes would be escaped."""
    at = body.find(_KEY)
    while at >= 0:
        end = _after_space(body, at + len(_KEY))
        if body[end : end + 1] == b":" and body[at - 1 : at] != b"\\":
            yield _after_space(body, end + 1)
        at = body.find(_KEY, at + len(_KEY))


def _object(body: bytes, begin: int) -> dict[str, Any] | None:
    key = body.find(_DATA, begin)
    colon = _after_space(body, key + len(_DATA))
    quote = _after_space(body, colon + 1)
    first, last = quote + 1, body.find(b'"', quote + 1)
    end = body.find(b"}", last)
    if key < 0 or last < 0 or end < 0 or body[colon : colon + 1] != b":" or body[quote : quote + 1] != b'"':
        return None
    # The rest is read without the text: that it is one object, with its text at "data", is proven by this.
    try:
        payload = json.loads(body[begin:first] + body[last : end + 1])
    except ValueError:
        return None
    if not isinstance(payload, dict) or payload.get("data") != "" or body.find(b"\\", first, last) >= 0:
        return None
    payload["data"] = memoryview(body)[first:last]
    return payload


def _after_space(body: bytes, at: int) -> int:
    while body[at : at + 1] and body[at : at + 1] in _SPACE:
        at += 1
    return at
