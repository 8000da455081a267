"""Routed experts as they stand in an answer: base64 text that the trainer decodes, with its shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_tito._native import Body

_KEY = b'"routed_experts"'
_DATA = b'"data"'
_SPACE = b" \t\r\n"
_NULL = b"null"
_PIECE = 1 << 18
_WIDTHS = {"uint8": 1, "uint16": 2, "int16": 2, "int32": 4}


@dataclass(frozen=True, slots=True)
class Found:
    """Where an answer has routed experts.

    Attributes:
        count: in how many places, those that are null apart.
        payload: the object ``{"data", "shape", ...}``, if there is one place and it is that form; ``data`` is a view of
            the answer.
        text: where the text of ``data`` begins and ends.
    """

    count: int
    payload: dict[str, Any] | None
    text: tuple[int, int]


class Bytes:
    """An answer that is searched in pieces, so that a large one is neither copied nor read twice."""

    def __init__(self, body: Body | bytes) -> None:
        self.view = memoryview(body).cast("B")

    def find(self, pattern: bytes, begin: int = 0, end: int | None = None) -> int:
        """The first place of ``pattern`` from ``begin`` on that ends before ``end``; -1 if there is none."""
        end = len(self.view) if end is None else end
        for at in range(begin, end, _PIECE):
            found = bytes(self.view[at : min(at + _PIECE + len(pattern) - 1, end)]).find(pattern)
            if found >= 0:
                return at + found
        return -1

    def at(self, begin: int, length: int = 1) -> bytes:
        """Some bytes."""
        return bytes(self.view[begin : begin + length])

    def after_space(self, at: int) -> int:
        """The first place from ``at`` on that is no white space."""
        while (byte := self.at(at)) and byte in _SPACE:
            at += 1
        return at


def find_payload(body: Bytes) -> Found:
    """Find the routed experts. No base64 is decoded, and the text is looked at once, for its end."""
    count, payload, text = 0, None, (0, 0)
    at = body.find(_KEY)
    while at >= 0:
        end = at + len(_KEY)
        colon = body.after_space(end)
        # Within a string the quotes of the key would be escaped.
        if body.at(colon) == b":" and body.at(at - 1 if at else 0) != b"\\":
            value = body.after_space(colon + 1)
            if body.at(value, len(_NULL)) != _NULL:
                count += 1
                found = _object(body, value) if body.at(value) == b"{" else None
                if found is not None:
                    payload, text, end = found
        at = body.find(_KEY, end)
    return Found(count, payload, text) if count == 1 else Found(count, None, (0, 0))


def rows_end(payload: dict[str, Any]) -> int | None:
    """The position after the last row of a payload; None where its shape and the length of its text disagree."""
    try:
        rows, layers, slots = (int(size) for size in payload["shape"])
        width = _WIDTHS[payload.get("dtype") or "uint8"]
        start, size = int(payload.get("start") or 0), rows * layers * slots * width
    except (KeyError, TypeError, ValueError):
        return None
    return start + rows if len(payload["data"]) == (size + 2) // 3 * 4 else None


def _object(body: Bytes, begin: int) -> tuple[dict[str, Any], tuple[int, int], int] | None:
    """The payload, where its text is, and where it ends; None for another object."""
    key = body.find(_DATA, begin)
    colon = body.after_space(key + len(_DATA))
    quote = body.after_space(colon + 1)
    if key < 0 or body.at(colon) != b":" or body.at(quote) != b'"':
        return None
    first = quote + 1
    last = body.find(b'"', first)
    end = body.find(b"}", last) + 1
    if last < 0 or not end:
        return None
    # The rest is read without the text: that it is one object, with its text at "data", is proven by this.
    try:
        payload = json.loads(body.at(begin, first - begin) + body.at(last, end - last))
    except ValueError:
        return None
    if not isinstance(payload, dict) or payload.get("data") != "" or body.at(last - 1) == b"\\":
        return None
    payload["data"] = body.view[first:last]
    return payload, (first, last), end
