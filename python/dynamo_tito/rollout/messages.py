"""Messages of any type, compared by their content.

Pydantic models, dataclasses and plain dicts of one conversation are one conversation: a key whose value is None says
nothing, and neither does a content of ``""``. What a tool is called with is data, in which None is a value.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

_DATA = "arguments"

NO_MESSAGES = b""
"""The fingerprint of a conversation before its first message."""


def plain(messages: Iterable[Any]) -> list[Message]:
    """Messages as dicts, as renderers and chat templates take them; keys that hold None are left out.

    Raises:
        TypeError: something that is no message, or a single one instead of a list.
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise TypeError(f"messages must be a list of messages, not {type(messages).__name__}")
    return [_message(message) for message in messages]


def fingerprints(messages: Sequence[Message], before: bytes = NO_MESSAGES) -> list[bytes]:
    """One fingerprint per message: of the conversation up to and including it, which began with ``before``."""
    found = []
    for message in messages:
        before = blake2b(before + _canonical(message), digest_size=16).digest()
        found.append(before)
    return found


def _message(message: Any) -> Message:
    said = _value(message)
    if not isinstance(said, dict) or not isinstance(said.get("role"), str):
        raise TypeError(f"a message must have a role, {type(message).__name__} {message!r:.80} has none")
    return said


def _value(value: Any, *, data: bool = False) -> Any:
    """Plain data out of models, dataclasses, mappings and sequences."""
    if isinstance(value, Enum):
        return _value(value.value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: _value(item, data=data or key == _DATA) for key, item in value.items() if data or item is not None}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_value(item, data=data) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _value(fields, data=data)
    if callable(dump := getattr(value, "model_dump", None)):
        return _value(dump(), data=data)
    raise TypeError(f"a message must hold plain data, not {type(value).__name__}")


def _canonical(message: Message) -> bytes:
    said = {key: value for key, value in message.items() if key != "content" or value != ""}
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
