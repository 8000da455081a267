"""Arrays as text for a page: little-endian, as narrow as their values, compressed where that is smaller."""

from __future__ import annotations

import base64
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_BLOCK = 1 << 20
"""Bytes of a block. A browser decodes a block of this size well within a frame."""

_LEVEL = 3
"""Of zlib: a higher level makes routed experts hardly smaller, and takes several times as long."""

_SAMPLE = 1 << 15
_WORTH = 0.75
"""Share of a sample's size below which repeats are worth a search."""

_INTEGERS = (("u1", np.uint8), ("i2", np.int16), ("u2", np.uint16), ("i4", np.int32))


@dataclass(frozen=True, slots=True)
class Column:
    """An array as the page has it.

    Attributes:
        name: the page's name for it.
        dtype: ``"u1"``, ``"i2"``, ``"u2"``, ``"i4"``, ``"f4"`` or ``"f8"``.
        shape: of the array.
        deflate: whether the blocks are compressed (raw deflate).
        blocks: base64 of the array's bytes in C order, cut into pieces.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    deflate: bool
    blocks: list[bytes]

    def header(self) -> dict[str, Any]:
        """What the page must know to read the blocks."""
        return {"dtype": self.dtype, "shape": self.shape, "deflate": self.deflate, "blocks": len(self.blocks)}


def pack(name: str, array: Array) -> Column:
    """The column of an array of bools, integers or floats. Every value is kept exactly."""
    dtype, narrow = _narrow(array)
    data = memoryview(np.ascontiguousarray(narrow).reshape(-1).view(np.uint8).data)
    pieces = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    if len(pieces) > 1:
        with ThreadPoolExecutor(4) as pool:
            compressed = list(pool.map(_deflate, pieces))
    else:
        compressed = [_deflate(piece) for piece in pieces]
    deflate = sum(map(len, compressed)) < 0.95 * len(data)
    blocks = [base64.b64encode(piece) for piece in (compressed if deflate else pieces)]
    return Column(name, dtype, array.shape, deflate, blocks)


def _narrow(array: Array) -> tuple[str, Array]:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            single = array.astype("<f4")
        if np.array_equal(single, array, equal_nan=True):
            return "f4", single
        return "f8", array.astype("<f8")
    if not array.size:
        return "u1", array.astype(np.uint8)
    low, high = int(array.min()), int(array.max())
    for dtype, kind in _INTEGERS:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return dtype, array.astype(np.dtype(kind).newbyteorder("<"), copy=False)
    raise ValueError(f"integers from {low} to {high} do not fit in 32 bits")


def _deflate(data: memoryview) -> bytes:
    """Compressed; where a sample of the block has next to no repeats, none are searched: that takes half the time."""
    repeats = len(zlib.compress(data[:_SAMPLE], _LEVEL)) < _WORTH * min(len(data), _SAMPLE)
    strategy = zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_HUFFMAN_ONLY
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(data) + packer.flush()
