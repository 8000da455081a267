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
from json.encoder import encode_basestring
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


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON that is written as it is, in one piece or several."""

    pieces: tuple[bytes, ...]


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; NaN and infinities are an error."""
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def _write(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, Raw):
        parts.extend(value.pieces)
    elif isinstance(value, dict):
        before = b"{"
        for key, item in value.items():
            parts.append(before + encode_basestring(key).encode() + b":")
            before = b","
            _write(item, parts)
        parts.append(b"}" if value else b"{}")
    elif isinstance(value, list) and any(isinstance(item, dict | Raw) for item in value):
        before = b"["
        for item in value:
            parts.append(before)
            before = b","
            _write(item, parts)
        parts.append(b"]")
    else:
        parts.append(_ENCODER.encode(value).encode())


def array_of(items: Iterable[str]) -> Raw:
    """A JSON array of elements that are JSON text already."""
    return Raw((b"[", ",".join(items).encode(), b"]"))


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
    return array_of(map(str, values.tolist()))


def routing_object(rows: NDArray[np.generic], start: int) -> dict[str, Any]:
    """`{data, shape, start, dtype}`: base64 of the raw little-endian rows."""
    return {"data": _base64(rows), "shape": list(rows.shape), "start": start, "dtype": str(rows.dtype)}


def routing_npy(rows: NDArray[np.generic]) -> Raw:
    """A string that holds an .npy file in base64."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return Raw((b'"', base64.b64encode(file.getbuffer()), b'"'))


def routing_bare(rows: NDArray[np.generic]) -> Raw:
    """A string of base64: int32 rows without a header."""
    return _base64(rows.astype("<i4"))


def _base64(rows: NDArray[np.generic]) -> Raw:
    # A view of the bytes where there are any: memoryview casts no empty arrays.
    data = np.ascontiguousarray(rows).data.cast("B") if rows.size else b""
    return Raw((b'"', base64.b64encode(data), b'"'))
