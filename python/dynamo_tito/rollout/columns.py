"""The columns of a batch of samples: their dtypes, how they are made, and whether they fit together."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import RoutedExpertsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from dynamo_tito._types import Int64Array

    from .routing import Chunk, Rows

_DTYPES = {
    "token_ids": "int32",
    "mask": "bool",
    "logprobs": "float64 or float32",
    "offsets": "int64",
    "routing_offsets": "int64",
    "shared": "int64",
    "turns": "int64",
    "turn_offsets": "int64",
    "spans": "int64",
    "span_versions": "int32",
    "span_measured": "bool",
    "span_offsets": "int64",
    "notes": "uint8",
}
_WIDTHS = {"turns": 3, "spans": 2}
#: Offsets: the column that they divide, and the column that has a row for each of the parts.
_DIVIDED = {
    "offsets": ("token_ids", "shared"),
    "routing_offsets": ("routed_experts", "shared"),
    "turn_offsets": ("turns", "shared"),
    "span_offsets": ("spans", "turns"),
}
#: Columns with a value for each row of another.
_BESIDE = {"mask": "token_ids", "logprobs": "token_ids", "span_versions": "spans", "span_measured": "spans"}

COLUMNS = (*_DTYPES, "routed_experts")


def check(columns: Mapping[str, Any]) -> None:
    """Whether the columns are those of a batch.

    Raises:
        ValueError: one is missing or unknown, has another dtype or shape, or does not fit the others.
    """
    if unknown := columns.keys() - {*COLUMNS}:
        raise ValueError(f"a batch has no columns {sorted(unknown)}")
    for name, dtype in _DTYPES.items():
        _check_shape(name, columns.get(name), dtype)
    rows = columns.get("routed_experts")
    if rows is not None and (not isinstance(rows, np.ndarray) or rows.ndim != 3 or rows.dtype.kind not in "iu"):
        raise ValueError("column routed_experts must be an array of integers [R, layers, top_k]")
    for name, (divided, counted) in _DIVIDED.items():
        total = 0 if columns.get(divided) is None else len(columns[divided])
        _check_offsets(name, columns[name], total, len(columns[counted]))
    for name, other in _BESIDE.items():
        if len(columns[name]) != len(columns[other]):
            raise ValueError(f"{name} has {len(columns[name])} values, {other} has {len(columns[other])}")
    _check_places(columns)


def _check_shape(name: str, array: Any, dtype: str) -> None:
    width = _WIDTHS.get(name)
    dimensions = 1 if width is None else 2
    fits = isinstance(array, np.ndarray) and array.dtype in dtype.split(" or ") and array.ndim == dimensions
    if not fits:
        raise ValueError(f"column {name} must be an array of {dtype} with {dimensions} dimensions")
    if width is not None and array.shape[1] != width:
        raise ValueError(f"column {name} must have {width} numbers in each row, not {array.shape[1]}")


def _check_offsets(name: str, offsets: Int64Array, total: int, parts: int) -> None:
    if len(offsets) != parts + 1 or offsets[0] != 0 or offsets[-1] != total:
        raise ValueError(f"{name} must be {parts + 1} numbers from 0 to {total}")
    if (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} must not fall")


def _check_places(columns: Mapping[str, Any]) -> None:
    """Whether rows, turns and spans lie on the tokens of their sample."""
    tokens = np.diff(columns["offsets"])
    rows = np.diff(columns["routing_offsets"])
    if ((rows != 0) & (rows != tokens)).any():
        raise ValueError("a sample must have a row of routed_experts for each of its tokens, or none")
    room = np.repeat(tokens, np.diff(columns["turn_offsets"]))
    limits = {"turns": room, "spans": np.repeat(room, np.diff(columns["span_offsets"]))}
    for name, limit in limits.items():
        bounds = columns[name]
        if (bounds < 0).any() or (np.diff(bounds) < 0).any() or (bounds[:, -1] > limit).any():
            raise ValueError(f"{name} must not fall, nor leave the tokens of their sample")
    if (columns["span_versions"] < 0).any():
        raise ValueError("span_versions must not be below 0")


def joined(arrays: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """One array of all; a single one as it is."""
    if len(arrays) == 1 and arrays[0].dtype == dtype:
        return arrays[0]
    return np.concatenate(arrays, dtype=dtype) if arrays else np.empty(0, dtype)


def joined_rows(held: list[Rows]) -> Chunk | None:
    """The rows of all samples in one array, each written once, out of the pieces in which it came.

    Raises:
        RoutedExpertsError: kind ``"shape"``: samples differ in layers or experts per token.
    """
    if not held:
        return None
    if shapes := {rows.shape[1:] for rows in held} - {held[0].shape[1:]}:
        raise RoutedExpertsError(f"rows of samples are {held[0].shape[1:]} and {shapes.pop()}", kind="shape")
    if len(held) == 1:
        return held[0].array()
    offsets = offsets_of(map(len, held))
    whole: Chunk = np.empty((int(offsets[-1]), *held[0].shape[1:]), np.result_type(*(rows.dtype for rows in held)))
    for rows, first in zip(held, offsets.tolist(), strict=False):
        rows.copy_into(whole[first : first + len(rows)])
    return whole


def offsets_of(counts: Iterable[int]) -> Int64Array:
    """Int64: where each part begins, and where the last one ends."""
    return np.cumsum(np.fromiter(chain((0,), counts), np.int64), dtype=np.int64)


def table_of(rows: Iterable[tuple[int, ...]], width: int) -> Int64Array:
    """Int64 [rows, width]."""
    return np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, width)
