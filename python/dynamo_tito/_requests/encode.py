"""A draft to bytes. The ids are the body's bulk, so the core writes them; the rest is a few hundred bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._native import encode_token_ids

from .unread import refuse_unread

if TYPE_CHECKING:
    from .call import Call, Draft


def encode(draft: Draft, call: Call, transport: str) -> bytes:
    """The request body, compact JSON in UTF-8, the ids last in their object.

    Raises:
        TypeError: something in the body is no JSON.
        ValueError: an id outside [0, 2^31-1], a number that JSON cannot hold (NaN, infinity), or a field whose answer
            is not read.
    """
    members = draft.members
    refuse_unread(members, transport)
    prefix, suffix = b"", b"]"
    for key in draft.ids_at:
        around = _dump({name: value for name, value in members.items() if name != key})
        separator = b"" if around == b"{}" else b","
        prefix += around[:-1] + separator + b'"' + key.encode() + b'":'
        suffix += b"}"
        members = members.get(key) or {}
    return encode_token_ids(prefix + b"[", call.prompt, suffix)


def _plain(value: Any) -> Any:
    """Scalars and arrays of numpy as numbers and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be part of a request body")


_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def _dump(value: Any) -> bytes:
    return _JSON.encode(value).encode()
