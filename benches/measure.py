"""How things are timed and shown: interleaved rounds, medians of paired ratios, tables in markdown."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Times: TypeAlias = dict[str, list[float]]
"""Milliseconds by name; the same index is the same round."""

_SAMPLE = 3.0  # milliseconds: far above what the clock and the loop cost
_MAX_LOOPS = 2_000


def interleave(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Times:
    """Time every call once a round, in an order that is new each round.

    No call always follows the same neighbour, and what slows the machine for a while slows them all, so that the
    ratios of one round hold when its times do not. A call that is fast is repeated until a sample takes 3 ms.
    ``clock`` is in seconds.
    """
    loops = {name: _loops(call, clock) for name, call in calls.items()}
    order = random.Random(0)
    times: Times = {name: [] for name in calls}
    for _ in range(rounds):
        for name in order.sample(list(calls), len(calls)):
            times[name].append(_sample(calls[name], loops[name], clock))
    return times


def _loops(call: Callable[[], object], clock: Callable[[], float]) -> int:
    once = min(_sample(call, 1, clock) for _ in range(4))
    return max(1, min(_MAX_LOOPS, round(_SAMPLE / max(once, 1e-6) + 0.5)))


def _sample(call: Callable[[], object], loops: int, clock: Callable[[], float]) -> float:
    kept = None
    begin = clock()
    for _ in range(loops):
        kept = call()  # a caller holds one result while the next is made
    elapsed = clock() - begin
    del kept
    return elapsed / loops * 1e3


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def fastest(times: Times, names: Iterator[str] | Sequence[str]) -> str:
    """The name with the lowest median."""
    return min(names, key=lambda name: statistics.median(times[name]))


@dataclass(frozen=True, slots=True)
class Table:
    """What one command measured.

    Attributes:
        title: of the section.
        columns: their headings; the first is left-aligned.
        rows: as text.
        note: what the figures mean, if the columns do not say.
        data: the same as numbers, for charts and summaries.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    data: Any = None

    def markdown(self, level: int = 3) -> str:
        """The section."""
        lines = [f"{'#' * level} {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += [_row(self.columns), _row([":---", *("---:" for _ in self.columns[1:])]), *map(_row, self.rows)]
        return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def times_faster(value: float) -> str:
    """A ratio with as many digits as it deserves."""
    return f"{value:.0f}x" if value >= 20 else f"{value:.1f}x" if value >= 3 else f"{value:.2f}x"


def milliseconds(value: float) -> str:
    """A time with three digits that count."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
