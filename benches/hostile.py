"""What errors cost, and bodies that were built to be slow: ``python -m benches.hostile [rounds]``.

An error may cost twice what a success of the same size costs, a body that is built to be slow ten times as much per
byte as a plain one. Every answer is proven first: the value, or the error. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

from rich.console import Console
from rich.table import Table

import dynamo_tito as tito
from benches.hostile_bodies import ERROR_SIZES, Attack, Damage, attacks, damages, plain
from benches.measure import interleave, milliseconds, ratio
from dynamo_tito._types import Wire

ERROR_BOUND: Final = 2.0
SLOW_BOUND: Final = 10.0
_SHOWN: Final = 25


@dataclass(frozen=True, slots=True)
class Result:
    """One body beside what it is measured against."""

    wire: Wire
    name: str
    size: int
    milliseconds: float
    ratio: float
    bound: float


def main() -> int:
    """Measure everything, show the worst."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    console = Console()
    broken = 0
    for title, measured in (("Errors, beside a success of the same size", _errors), ("Slow bodies, per byte", _slow)):
        results = [result for wire in get_args(Wire) for result in measured(wire, rounds)]
        results.sort(key=lambda result: result.ratio, reverse=True)
        console.print(_table(title, results[:_SHOWN]))
        over = [result for result in results if result.ratio > result.bound]
        console.print(f"{len(results)} bodies, {len(over)} beyond {results[0].bound:.0f}x")
        broken += len(over)
    return 1 if broken else 0


def _table(title: str, results: list[Result]) -> Table:
    table = Table("wire", "body", "bytes", "ms", "ratio", title=title, title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in results:
        style = "red" if one.ratio > one.bound else None
        shown = (f"{one.size:,}", milliseconds(one.milliseconds), f"{one.ratio:.2f}")
        table.add_row(one.wire, one.name, *shown, style=style)
    return table


def _errors(wire: Wire, rounds: int) -> Iterator[Result]:
    for size in ERROR_SIZES:
        cases = [*damages(wire, size)]
        for case in cases:
            _prove(case)
        calls: dict[str, Callable[[], object]] = {f"! {case.name}": functools.partial(_refused, case) for case in cases}
        calls |= {case.name: functools.partial(_accepted, case) for case in cases}
        times = interleave(calls, rounds, time.thread_time)
        for case in cases:
            column = times[f"! {case.name}"]
            share = ratio(column, times[case.name])
            yield Result(wire, case.name, len(case.broken), statistics.median(column), share, ERROR_BOUND)


def _prove(case: Damage) -> None:
    tito.decode(case.whole, **case.options)
    found = _refused(case)
    kind = "server" if isinstance(found, tito.ServerError) else getattr(found, "kind", None)
    assert kind == case.kind, f"{case.name}: {found!r} where {case.kind} was expected"


def _refused(case: Damage) -> tito.TitoError:
    try:
        tito.decode(case.broken, **(case.options | case.extra))
    except tito.TitoError as error:
        return error
    raise AssertionError(f"{case.name} was decoded")


def _accepted(case: Damage) -> object:
    return tito.decode(case.whole, **case.options)


def _slow(wire: Wire, rounds: int) -> Iterator[Result]:
    body = plain(wire)
    cases = [*attacks(wire)]
    for case in cases:
        case.prove(_run(case))
    calls: dict[str, Callable[[], object]] = {case.name: functools.partial(_run, case) for case in cases}
    calls["plain"] = functools.partial(tito.decode, body, wire=wire)
    times = interleave(calls, rounds, time.thread_time)
    for case in cases:
        share = ratio(times[case.name], times["plain"]) * len(body) / len(case.body)
        yield Result(wire, case.name, len(case.body), statistics.median(times[case.name]), share, SLOW_BOUND)


def _run(case: Attack) -> Any:
    try:
        return case.decode(case.body, **case.options)
    except tito.TitoError as error:
        return error


if __name__ == "__main__":
    sys.exit(main())
