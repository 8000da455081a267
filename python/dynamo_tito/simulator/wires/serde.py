"""Request checks with the messages of Dynamo's frontend: those of serde for values of a wrong type."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

from dynamo_tito.simulator.calls import EngineError

__all__ = ["Kind", "check", "check_known", "deserialize_error", "end_of", "parse"]

Kind: TypeAlias = Literal["u8", "u32", "i32", "i64", "f32", "a boolean", "a string", "a sequence", "a map"]

_RANGE = {"u8": (0, 2**8 - 1), "u32": (0, 2**32 - 1), "i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1)}
_DECODER = json.JSONDecoder()


def deserialize_error(detail: str, column: int) -> EngineError:
    """400 with the frontend's prefix and a place."""
    text = f"Failed to deserialize the JSON body into the target type: {detail} at line 1 column {column}"
    return EngineError(400, text, kind="deserialize")


def parse(body: bytes) -> Any:
    """The body's JSON value.

    Raises:
        EngineError: it is none, with the column at which it ends to be one.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        at_end = at >= len(body)
        detail = "EOF while parsing a value" if at_end else "expected value"
        raise EngineError(400, f"{detail} at line 1 column {at if at_end else at + 1}", kind="syntax") from None


def check(value: Any, kind: Kind) -> str | None:
    """The message of serde for a value of another kind; None for one of this kind."""
    if kind in _RANGE:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"invalid type: {_describe(value)}, expected {kind}"
        low, high = _RANGE[kind]
        return None if low <= value <= high else f"invalid value: {_describe(value)}, expected {kind}"
    good = {
        "f32": isinstance(value, int | float) and not isinstance(value, bool),
        "a boolean": isinstance(value, bool),
        "a string": isinstance(value, str),
        "a sequence": isinstance(value, list),
        "a map": isinstance(value, dict),
    }[kind]
    return None if good else f"invalid type: {_describe(value)}, expected {kind}"


def check_known(keys: Collection[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first unknown key, and the message of serde."""
    for key in keys:
        if key not in known:
            names = ", ".join(f"`{name}`" for name in known)
            return key, f"unknown field `{key}`, expected one of {names}"
    return None


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "sequence" if isinstance(value, list) else "map"
    if isinstance(value, str):
        return f'string "{value}"'
    kind = {bool: "boolean", int: "integer", float: "floating point"}[type(value)]
    return f"{kind} `{json.dumps(value)}`"


def end_of(body: bytes, *path: str | int, key: bool = False) -> int:
    """The column at which the value on the path ends, or the key of the path's last step."""
    text = body.decode()
    at = _skip(text, 0)
    for depth, step in enumerate(path):
        number = 0
        at = _skip(text, at + 1)
        while True:
            if isinstance(step, str):
                name, at = _DECODER.raw_decode(text, at)
                found = name == step
                if found and key and depth == len(path) - 1:
                    return at
                at = _skip(text, _skip(text, at) + 1)
            else:
                found = number == step
            if found:
                break
            at = _skip(text, _skip(text, _DECODER.raw_decode(text, at)[1]) + 1)
            number += 1
    return _DECODER.raw_decode(text, at)[1]


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
