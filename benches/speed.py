"""Time to decode, beside every rival."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benches import cases
from benches.measure import Table, Times, fastest, interleave, milliseconds, ratio, times_faster
from benches.rivals import OURS, contenders, prove


@dataclass(frozen=True, slots=True)
class Result:
    """One case, timed.

    Attributes:
        case: its name.
        full: whether every row was decoded.
        size: bytes of the body.
        times: of every contender; today's way is the first.
    """

    case: str
    full: bool
    size: int
    times: Times

    @property
    def today(self) -> str:
        """What trainers run today."""
        return next(iter(self.times))

    @property
    def by_hand(self) -> str:
        """The best that an expert would write."""
        return fastest(self.times, [name for name in self.times if name not in (OURS, self.today)])

    def lead(self, rival: str) -> float:
        """How many times faster this library is."""
        return ratio(self.times[rival], self.times[OURS])

    def median(self, name: str = OURS) -> float:
        """Milliseconds."""
        return statistics.median(self.times[name])


def measure(name: str, rounds: int, *, full: bool = False, only: Sequence[str] = ()) -> Result:
    """Prove and time every contender, or only some, on one case."""
    case = cases.CASES[name]
    body, truth = cases.load(name)
    first = 0 if full else case.prompt
    calls: dict[str, Callable[[], object]] = {}
    for rival, decode in contenders(case, full=full).items():
        if not only or rival in only:
            prove(decode, body, case, truth, full=full)
            calls[rival] = functools.partial(decode, body, first)
    del truth
    return Result(name, full, len(body), interleave(calls, rounds))


def tables(names: Sequence[str], rounds: int, *, full: bool = False) -> Iterator[Table]:
    """A table per case, then one of all."""
    results = []
    for name in names:
        result = measure(name, rounds, full=full)
        results.append(result)
        yield details(result)
    yield summary(results)


def details(result: Result) -> Table:
    """Every contender of one case."""
    rows = []
    for name, times in result.times.items():
        lead = "" if name == OURS else times_faster(result.lead(name))
        rows.append([name, lead, milliseconds(statistics.median(times)), milliseconds(min(times))])
    rows_of = ", all rows" if result.full else ""
    title = f"{result.case}{rows_of}: {result.size / 1e6:.2f} MB"
    return Table(title, ["contender", f"{OURS} is faster by", "median ms", "best ms"], rows)


def summary(results: Sequence[Result]) -> Table:
    """One row per case."""
    rows = [
        [
            result.case + (", all rows" if result.full else ""),
            f"{times_faster(result.lead(result.today))}",
            f"{times_faster(result.lead(result.by_hand))} ({result.by_hand})",
            milliseconds(result.median()),
            f"{result.size / result.median() / 1e6:.1f}",
        ]
        for result in results
    ]
    columns = ["case", "against today's way", "against the best by hand", "ms", "GB/s of body"]
    return Table("All cases", columns, rows, data=results)
