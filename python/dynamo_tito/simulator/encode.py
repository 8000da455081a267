"""JSON and the containers of routed experts, as servers write them.

Independent of the decoder that reads them: the standard library and `numpy.save`. Long regular parts are formatted as
text and spliced in, because a response of 64k tokens must take a fraction of a second.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Raw",
    "array_of",
    "dumps",
    "f32_text",
    "f32_wide_text",
    "f64_text",
    "ids",
    "routing_bare",
    "routing_npy",
    "routing_object",
]


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON text that is written as it is."""

    text: str


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; NaN and infinities are an error."""
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, Raw):
        parts.append(value.text)
    elif isinstance(value, dict):
        parts.append("{")
        for number, (key, item) in enumerate(value.items()):
            parts.append(f"{',' if number else ''}{json.dumps(key)}:")
            _write(item, parts)
        parts.append("}")
    elif isinstance(value, list) and any(isinstance(item, dict | Raw) for item in value):
        parts.append("[")
        for number, item in enumerate(value):
            if number:
                parts.append(",")
            _write(item, parts)
        parts.append("]")
    else:
        parts.append(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def array_of(items: Iterable[str]) -> Raw:
    """A JSON array of elements that are JSON text already."""
    return Raw("[" + ",".join(items) + "]")


def f64_text(values: NDArray[np.float64]) -> list[str]:
    """The shortest decimals that read back as the same float64."""
    return list(map(repr, values.ravel().tolist()))


def f32_text(values: NDArray[np.float64]) -> list[str]:
    """Rounded to float32, in the shortest decimals that read back as that: a server that serialises float32."""
    return list(map(str, values.ravel().astype(np.float32)))


def f32_wide_text(values: NDArray[np.float64]) -> list[str]:
    """Rounded to float32, in the decimals of a float64: a server that keeps float32 and serialises float64."""
    return list(map(repr, values.ravel().astype(np.float32).astype(np.float64).tolist()))


def ids(values: NDArray[np.int64]) -> Raw:
    """A list of token ids."""
    return Raw("[" + ",".join(map(str, values.tolist())) + "]")


def routing_object(rows: NDArray[np.generic], start: int) -> dict[str, Any]:
    """`{data, shape, start, dtype}`: base64 of the raw little-endian rows."""
    return {
        "data": Raw('"' + base64.b64encode(rows.tobytes()).decode() + '"'),
        "shape": list(rows.shape),
        "start": start,
        "dtype": str(rows.dtype),
    }


def routing_npy(rows: NDArray[np.generic]) -> Raw:
    """A string that holds an .npy file in base64."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return Raw('"' + base64.b64encode(file.getbuffer()).decode() + '"')


def routing_bare(rows: NDArray[np.generic]) -> Raw:
    """A string of base64: int32 rows without a header."""
    return Raw('"' + base64.b64encode(rows.astype("<i4").tobytes()).decode() + '"')
