"""A batch of samples as an Arrow table and back. Imports pyarrow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .batch import SampleBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .routing import Chunk

_FORMAT = b"dynamo-tito sample batch 1"
_TOKENS = {"token_ids": pa.int32(), "mask": pa.bool_(), "logprobs": pa.float64()}
_NARROW = {**_TOKENS, "logprobs": pa.float32()}
_VERSION = {"version": pa.string(), "start": pa.int64(), "end": pa.int64(), "measured": pa.bool_()}
_TURN = {
    "start": pa.int64(),
    "completion_start": pa.int64(),
    "end": pa.int64(),
    "finish_reason": pa.string(),
    "stop_reason": pa.string(),
    "aborted": pa.bool_(),
    "request_id": pa.string(),
    "weight_versions": pa.large_list(pa.struct(_VERSION)),
}


def to_arrow(batch: SampleBatch) -> pa.Table:
    """One row a sample; see :meth:`SampleBatch.to_arrow`."""
    columns = batch.to_numpy()
    offsets = pa.array(batch.offsets)
    kinds = _NARROW if batch.logprobs.dtype == np.float32 else _TOKENS
    table = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(columns[name], kind)) for name, kind in kinds.items()
    }
    if batch.routed_experts is not None:
        table["routed_experts"] = pa.LargeListArray.from_arrays(
            pa.array(batch.routing_offsets), _rows(batch.routed_experts)
        )
    table["shared"] = pa.array(batch.shared)
    table["turns"] = pa.LargeListArray.from_arrays(pa.array(batch.turn_offsets), _turns(batch))
    return pa.table(table).replace_schema_metadata({b"format": _FORMAT})


def from_arrow(table: pa.Table | pa.RecordBatch) -> SampleBatch:
    """The batch of a table; see :meth:`SampleBatch.from_arrow`."""
    whole = pa.table(table) if isinstance(table, pa.RecordBatch) else table
    if missing := {*_TOKENS, "shared", "turns"} - {*whole.column_names}:
        raise ValueError(f"the table has no columns {sorted(missing)}")
    given = whole.schema.field("logprobs").type
    narrow = pa.types.is_nested(given) and given.value_type == pa.float32()
    kinds = _NARROW if narrow else _TOKENS
    lists = {name: _list(whole, name, pa.large_list(kind)) for name, kind in kinds.items()}
    offsets = {name: _offsets(part) for name, part in lists.items()}
    for name in ("mask", "logprobs"):
        if not np.array_equal(offsets[name], offsets["token_ids"]):
            raise ValueError(f"columns {name} and token_ids differ in length")
    turns = _list(whole, "turns", pa.large_list(pa.struct(_TURN)))
    rows, routing = _routing(whole)
    said = turns.flatten()
    spans = said.field("weight_versions")
    versions = spans.flatten()
    names = versions.field("version").dictionary_encode()
    shared = _chunk(whole["shared"]).cast(pa.int64())
    notes = {
        "versions": names.dictionary.to_pylist(),
        "turns": [
            [reason, None if stop is None else json.loads(stop), aborted, request]
            for reason, stop, aborted, request in zip(
                *(said.field(name).to_pylist() for name in ("finish_reason", "stop_reason", "aborted", "request_id")),
                strict=True,
            )
        ],
    }
    return SampleBatch(
        {
            **{name: _numbers(part.flatten(), name) for name, part in lists.items()},
            "offsets": offsets["token_ids"],
            "routed_experts": rows,
            "routing_offsets": np.zeros(len(whole) + 1, np.int64) if routing is None else routing,
            "shared": _numbers(shared, "shared"),
            "turns": np.stack([_numbers(said.field(name), name) for name in ("start", "completion_start", "end")], 1),
            "turn_offsets": _offsets(turns),
            "spans": np.stack([_numbers(versions.field(name), name) for name in ("start", "end")], 1),
            "span_versions": _numbers(names.indices, "version"),
            "span_measured": _numbers(versions.field("measured"), "measured"),
            "span_offsets": _offsets(spans),
            "notes": np.frombuffer(json.dumps(notes, separators=(",", ":")).encode(), np.uint8),
        }
    )


def _turns(batch: SampleBatch) -> pa.StructArray:
    notes = json.loads(batch.notes.tobytes())
    said: list[Any] = [*zip(*notes["turns"], strict=True)] or [(), (), (), ()]
    stops = [None if stop is None else json.dumps(stop) for stop in said[1]]
    names = pa.DictionaryArray.from_arrays(
        pa.array(batch.span_versions), pa.array(notes["versions"], pa.string())
    ).dictionary_decode()
    versions = _struct(
        _VERSION,
        {
            "version": names,
            "start": batch.spans[:, 0],
            "end": batch.spans[:, 1],
            "measured": batch.span_measured,
        },
    )
    return _struct(
        _TURN,
        {
            "start": batch.turns[:, 0],
            "completion_start": batch.turns[:, 1],
            "end": batch.turns[:, 2],
            "finish_reason": said[0],
            "stop_reason": stops,
            "aborted": said[2],
            "request_id": said[3],
            "weight_versions": pa.LargeListArray.from_arrays(pa.array(batch.span_offsets), versions),
        },
    )


def _struct(kinds: Mapping[str, pa.DataType], values: Mapping[str, Any]) -> pa.StructArray:
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(_plain(value), kinds[name]) for name, value in values.items()
    ]
    return pa.StructArray.from_arrays(arrays, names=[*kinds])


def _plain(value: Any) -> Any:
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else [*value]


def _rows(rows: Chunk) -> pa.FixedSizeListArray:
    layers, top_k = rows.shape[1:]
    slots = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), top_k)
    return pa.FixedSizeListArray.from_arrays(slots, layers)


def _routing(table: pa.Table) -> tuple[Chunk | None, NDArray[np.int64] | None]:
    if "routed_experts" not in table.column_names:
        return None, None
    column = _chunk(table["routed_experts"])
    kind = column.type
    try:
        layers, slots = kind.value_type.list_size, kind.value_type.value_type
        top_k, dtype = slots.list_size, slots.value_type
    except AttributeError:
        raise ValueError(
            f"column routed_experts is {kind}, not lists of fixed-size lists of fixed-size lists"
        ) from None
    column = column.cast(pa.large_list(pa.list_(pa.list_(dtype, top_k), layers)))
    values = _numbers(column.flatten().flatten().flatten(), "routed_experts")
    return values.reshape(-1, layers, top_k), _offsets(column)


def _list(table: pa.Table, name: str, kind: pa.DataType) -> pa.LargeListArray:
    column = _chunk(table[name])
    if column.null_count:
        raise ValueError(f"column {name} has nulls")
    try:
        return column if column.type == kind else column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name} is {column.type}, not {kind}") from error


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; one of several chunks is copied."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _offsets(column: pa.LargeListArray) -> NDArray[np.int64]:
    """Int64 [lists + 1], from 0: a slice's own begin where its first list does."""
    offsets: NDArray[np.int64] = column.offsets.to_numpy()
    return offsets - offsets[0] if len(offsets) and offsets[0] else offsets


def _numbers(column: pa.Array, name: str) -> NDArray[Any]:
    if column.null_count:
        raise ValueError(f"column {name} has nulls")
    values: NDArray[Any] = column.to_numpy(zero_copy_only=not pa.types.is_boolean(column.type))
    return values
