"""Completions as a table for people, or as JSON lines for machines."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import dynamo_tito as tito

_SHOWN = 2
"""Values shown from either end of an array."""


class _Row(NamedTuple):
    """One array."""

    name: str
    holds: str
    values: str
    source: str


def printable(text: str) -> str:
    """The text without what could steer a terminal: a server chose it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def as_table(name: str, wire: str, size: int, completions: Sequence[tito.Completion]) -> None:
    """Print one table per choice: fitted to a terminal, as wide as it needs in a pipe."""
    show = _rich if sys.stdout.isatty() else _plain
    for completion in completions:
        title = f"{name}: choice {completion.index} of {wire}, {size:,} bytes"
        show(title, [*_arrays(completion)], dict(_facts(completion)))


def as_json(name: str, wire: str, size: int, completions: Sequence[tito.Completion]) -> None:
    """Print one JSON object per choice and line."""
    for completion in completions:
        summary = {"file": name, "wire": wire, "bytes": size} | _summary(completion)
        print(json.dumps(summary, allow_nan=False))


def _plain(title: str, arrays: Sequence[_Row], facts: dict[str, str]) -> None:
    widths = [max(map(len, column)) for column in zip(*arrays, strict=True)]
    widths[0] = max(widths[0], *map(len, facts))
    print(title)
    for row in arrays:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name, fact in facts.items():
        print(f"  {name.ljust(widths[0])}  {fact}")


def _rich(title: str, arrays: Sequence[_Row], facts: dict[str, str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, style in (("array", "bold"), ("holds", "cyan"), ("first … last", ""), ("from", "dim")):
        table.add_column(heading, style=style, overflow="fold")
    for row in arrays:
        table.add_row(*map(Text, row))
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, style="bold"), Text(fact))
    Console().print(Text(title, style="bold"), table, grid, sep="\n")


def _arrays(completion: tito.Completion) -> Iterator[_Row]:
    for name, holds, values in _columns(completion):
        yield _Row(name, holds, values, completion.sources.get(name, ""))


def _columns(completion: tito.Completion) -> Iterator[tuple[str, str, str]]:
    for name, value in _attributes(completion):
        if value is None and name in completion.sources:
            yield name, "not read", ""
        else:
            yield from _described(name, value)


def _described(name: str, value: object) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, np.ndarray):
        yield name, _shape(value), _first_and_last(value.reshape(-1))
    elif isinstance(value, (tito.RoutedExperts, tito.IndexerTopk)):
        yield from _described(name, value.array)
    elif isinstance(value, tito.PromptLogprobs):
        yield from _described(name, value.logprobs)
        yield from _described(f"{name}.top", value.top)
    elif isinstance(value, (tito.TopLogprobs, tito.SamplingMask)):
        yield name, f"{len(value):,} positions, {len(value.token_ids):,} entries", _first_and_last(value.token_ids)


def _attributes(completion: tito.Completion) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(completion):
        yield field.name, getattr(completion, field.name)


def _facts(completion: tito.Completion) -> Iterator[tuple[str, str]]:
    if (routed := completion.routed_experts) is not None:
        whole = "complete" if routed.complete else "fewer rows than tokens call for"
        yield "routing", f"from position {routed.start}, {routed.wire_dtype} on the wire, {whole}"
    finish, raw = completion.finish_reason, completion.finish_reason_raw
    yield "finish_reason", printable(finish or "none") + ("" if raw == finish else f" ({raw!r} on the wire)")
    if completion.stop_reason is not None:
        yield "stop_reason", repr(completion.stop_reason)
    yield "aborted", {True: "yes", False: "no", None: "the wire cannot tell"}[completion.aborted]
    yield "request_id", printable(completion.request_id or "none")
    for name in ("usage", "weight_versions", "engine"):
        value = getattr(completion, name)
        if value is not None:
            yield name, json.dumps(value)


def _summary(completion: tito.Completion) -> dict[str, Any]:
    return {name: _summarised(value) for name, value in _attributes(completion)}


def _summarised(value: object) -> object:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, tito.RoutedExperts):
        facts = {"start": value.start, "wire_dtype": value.wire_dtype, "complete": value.complete}
        return _array(value.array) | facts
    if isinstance(value, tito.IndexerTopk):
        return _array(value.array) | {"start": value.start, "complete": value.complete}
    if isinstance(value, tito.PromptLogprobs):
        return _array(value.logprobs)
    if isinstance(value, (tito.TopLogprobs, tito.SamplingMask)):
        return {"positions": len(value), "entries": len(value.token_ids)}
    return dict(value) if isinstance(value, Mapping) else value


def _array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = array.reshape(-1)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "first": [*map(_plain_number, flat[:_SHOWN].tolist())],
        "last": [*map(_plain_number, flat[max(0, len(flat) - _SHOWN) :].tolist())],
    }


def _plain_number(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _shape(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype.name} [{', '.join(map(str, array.shape))}]"


def _first_and_last(flat: np.ndarray[Any, Any]) -> str:
    values = flat.tolist() if len(flat) <= 2 * _SHOWN else [*flat[:_SHOWN].tolist(), "…", *flat[-_SHOWN:].tolist()]
    return " ".join(value if isinstance(value, str) else f"{value:.6g}" for value in values)


def as_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head: fitted to a terminal, as wide as they need in a pipe."""
    shown = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in head:
            table.add_column(heading, overflow="fold")
        for row in shown:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    for row in ([*head], *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
