"""Completions as a table for people, or as JSON lines for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import dynamo_tito as tito

_ENDS = 3
"""Values shown from either end of an array."""


class _Row(NamedTuple):
    name: str
    holds: str
    values: str = ""
    source: str = ""


def as_table(name: str, wire: str, size: int, completions: Sequence[tito.Completion]) -> None:
    """Print one table per choice: as wide as it needs in a pipe, fitted to the terminal otherwise."""
    for completion in completions:
        title = f"{name}  {wire}, {size:,} bytes, choice {completion.index}"
        rows = [*_rows(completion)]
        if sys.stdout.isatty():
            _rich(title, rows)
        else:
            _plain(title, rows)


def as_json(name: str, wire: str, size: int, completions: Sequence[tito.Completion]) -> None:
    """Print one JSON object per choice and line."""
    for completion in completions:
        summary = {"file": name, "wire": wire, "bytes": size} | _summary(completion)
        print(json.dumps(summary, allow_nan=False))


def _plain(title: str, rows: Sequence[_Row]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title)
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich(title: str, rows: Sequence[_Row]) -> None:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, style in (("field", "bold"), ("holds", "cyan"), ("values", ""), ("source", "dim")):
        table.add_column(heading, style=style, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _rows(completion: tito.Completion) -> Iterator[_Row]:
    for row in _arrays(completion):
        yield row._replace(source=completion.sources.get(row.name, ""))
    yield from _facts(completion)


def _arrays(completion: tito.Completion) -> Iterator[_Row]:
    for name in ("token_ids", "logprobs", "prompt_token_ids"):
        array = getattr(completion, name)
        if array is not None:
            yield _Row(name, _shape(array), _ends(array))
    if (top := completion.top_logprobs) is not None:
        yield _Row("top_logprobs", _ragged(top), _ends(top.token_ids))
    if (prompt := completion.prompt_logprobs) is not None:
        yield _Row("prompt_logprobs", _shape(prompt.logprobs), _ends(prompt.logprobs))
        yield _Row("", _ragged(prompt.top), _ends(prompt.top.token_ids))
    elif "prompt_logprobs" in completion.sources:
        yield _Row("prompt_logprobs", "not read")
    if (routed := completion.routed_experts) is not None:
        yield _Row("routed_experts", _shape(routed.array), _ends(routed.array.reshape(-1)))
        whole = "complete" if routed.complete else "fewer rows than tokens call for"
        yield _Row("", f"start {routed.start}, {routed.wire_dtype} on the wire, {whole}")
    if (mask := completion.sampling_mask) is not None:
        yield _Row("sampling_mask", _ragged(mask), _ends(mask.token_ids))


def _facts(completion: tito.Completion) -> Iterator[_Row]:
    finish, raw = completion.finish_reason, completion.finish_reason_raw
    yield _Row("finish_reason", finish or "none", "" if raw == finish else f"{raw!r} on the wire")
    if completion.stop_reason is not None:
        yield _Row("stop_reason", repr(completion.stop_reason))
    yield _Row("aborted", {True: "yes", False: "no", None: "the wire cannot tell"}[completion.aborted])
    yield _Row("request_id", completion.request_id or "none")
    for name in ("usage", "weight_versions"):
        value = getattr(completion, name)
        if value is not None:
            yield _Row(name, json.dumps(value))


def _summary(completion: tito.Completion) -> dict[str, Any]:
    top, prompt, routed, mask = (
        completion.top_logprobs,
        completion.prompt_logprobs,
        completion.routed_experts,
        completion.sampling_mask,
    )
    return {
        "index": completion.index,
        "token_ids": _array(completion.token_ids),
        "logprobs": _optional(completion.logprobs),
        "top_logprobs": None if top is None else {"positions": len(top), "entries": len(top.token_ids)},
        "prompt_token_ids": _optional(completion.prompt_token_ids),
        "prompt_logprobs": None if prompt is None else _array(prompt.logprobs),
        "routed_experts": None
        if routed is None
        else _array(routed.array)
        | {"start": routed.start, "wire_dtype": routed.wire_dtype, "complete": routed.complete},
        "sampling_mask": None if mask is None else {"positions": len(mask), "entries": len(mask.token_ids)},
        "finish_reason": completion.finish_reason,
        "finish_reason_raw": completion.finish_reason_raw,
        "stop_reason": completion.stop_reason,
        "aborted": completion.aborted,
        "request_id": completion.request_id,
        "usage": completion.usage,
        "weight_versions": completion.weight_versions,
        "sources": dict(completion.sources),
    }


def _optional(array: np.ndarray[Any, Any] | None) -> dict[str, Any] | None:
    return None if array is None else _array(array)


def _array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = array.reshape(-1)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "first": [*map(_plain_number, flat[:_ENDS].tolist())],
        "last": [*map(_plain_number, flat[max(0, len(flat) - _ENDS) :].tolist())],
    }


def _plain_number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _shape(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype.name} [{', '.join(map(str, array.shape))}]"


def _ragged(ragged: tito.TopLogprobs | tito.SamplingMask) -> str:
    return f"{len(ragged):,} positions, {len(ragged.token_ids):,} entries"


def _ends(flat: np.ndarray[Any, Any]) -> str:
    values = flat.tolist() if len(flat) <= 2 * _ENDS else [*flat[:_ENDS].tolist(), "…", *flat[-_ENDS:].tolist()]
    return " ".join(value if isinstance(value, str) else f"{value:.6g}" for value in values)
