"""What receiving costs, beside others and beside its limit: ``python -m benches.transport [rounds]``, in 8 minutes.

Every row has what must hold. The clients of a row are interleaved in one run, and the answers are proven first.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches import cases
from benches.cases import CASES
from benches.measure import Table, ratio
from benches.serving import every_descriptor, served
from benches.transport_clients import (
    AIOHTTP,
    CLIENTS,
    LARGE,
    MIDDLE,
    NATIVE,
    PYQWEST,
    RECEIVE,
    SMALL,
    TODAY,
    prove,
)
from benches.transport_limit import limit

_LIMIT = "recv_into and decode alone"
_AT_ONCE, _RESPONSES = 64, 128
_SMALL_AT_ONCE, _SMALL_RESPONSES = 256, 20_000
_IN_FLIGHT, _DELAY = 2_000, 0.5
_CALLS = 10_000
_SPARE_DESCRIPTORS = 200


@dataclass(frozen=True, slots=True)
class _Row:
    """One measurement: what was found, and the bound that it must keep."""

    what: str
    found: float
    unit: str
    bound: float
    detail: str
    at_least: bool = False

    def cells(self) -> list[str]:
        """As text."""
        met = self.found >= self.bound if self.at_least else self.found <= self.bound
        sign = ">=" if self.at_least else "<="
        return [
            self.what,
            f"{self.found:.2f}{self.unit}",
            f"{sign} {self.bound:g}{self.unit}",
            "yes" if met else "NO",
            self.detail,
        ]


def table(rounds: int) -> Table:
    """All rows."""
    with served({name: cases.body(name) for name in (LARGE, MIDDLE, SMALL)}) as url:
        rows = [*_many(url, rounds), *_single(url, rounds)]
        small = _small(url, rounds)
    rows += [_in_flight(rounds), small, _memory()]
    columns = ["", "found", "must be", "met", "medians"]
    note = (
        f"A ratio is this library's figure over the other's. Medians of {rounds} rounds. *{AIOHTTP}* is this library "
        "with an `aiohttp.ClientSession` as `http_client`. The server gives way to every client (niceness 19)."
    )
    return Table("Receiving", columns, [row.cells() for row in rows], note, rows)


def _rounds(contended: Iterable[str], rounds: int) -> Iterator[str]:
    """Each contender once a round; every other round backwards."""
    order = list(contended)
    for number in range(rounds):
        yield from order if number % 2 else reversed(order)


def _medians(columns: dict[str, list[float]], digits: int = 2) -> str:
    return "; ".join(f"{name} {statistics.median(column):.{digits}f}" for name, column in columns.items())


# --------------------------------------------------------------------------------------------------------- many


def _many(url: str, rounds: int) -> Iterator[_Row]:
    rate, lag, cpu = (defaultdict[str, list[float]](list) for _ in range(3))
    for name in _rounds((NATIVE, AIOHTTP, TODAY, _LIMIT), rounds):
        if name == _LIMIT:
            found = limit(url, _AT_ONCE, _RESPONSES)
            rate[name].append(found[0])
            cpu[name].append(found[1])
            continue
        each, late, busy = asyncio.run(_load(CLIENTS[name], url))
        rate[name].append(each)
        lag[name].append(late)
        cpu[name].append(busy)
    what = f"{len(cases.body(MIDDLE)) / 1e6:.1f} MB x {_RESPONSES}, {_AT_ONCE} in flight: "
    yield _Row(f"{what}CPU over {_LIMIT}", ratio(cpu[NATIVE], cpu[_LIMIT]), "", 1.35, f"ms each: {_medians(cpu)}")
    lead = ratio(rate[NATIVE], rate[TODAY])
    yield _Row(f"{what}responses/s over {TODAY}", lead, "x", 12, f"responses/s: {_medians(rate, 0)}", at_least=True)
    late = ratio(lag[NATIVE], lag[AIOHTTP])
    yield _Row(f"{what}p99 lag of the loop over {AIOHTTP}", late, "", 0.2, f"ms: {_medians(lag)}")


async def _load(contender: Any, url: str) -> tuple[float, float, float]:
    async with contender(url) as get:

        async def worker(left: Iterator[int]) -> None:
            for _ in left:
                await get(MIDDLE)

        async def run(responses: int) -> None:
            left = iter(range(responses))
            await asyncio.gather(*(worker(left) for _ in range(_AT_ONCE)))

        await run(_AT_ONCE)
        lags: list[float] = []
        ticker = asyncio.create_task(_tick(lags))
        begin, cpu = time.perf_counter(), time.process_time()
        await run(_RESPONSES)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        ticker.cancel()
    lags.sort()
    return _RESPONSES / took, lags[int(0.99 * (len(lags) - 1))], cpu / _RESPONSES * 1e3


async def _tick(lags: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - begin - 0.001) * 1e3)


# ------------------------------------------------------------------------------------------------- one response


def _single(url: str, rounds: int) -> Iterator[_Row]:
    truth = cases.truth(LARGE)
    took, loop = (defaultdict[str, list[float]](list) for _ in range(2))
    for name in _rounds((NATIVE, AIOHTTP, RECEIVE), rounds):
        times, on_loop, found = asyncio.run(_fetch(CLIENTS[name], url, 3))
        if name == NATIVE and not took[name]:
            prove(found, CASES[LARGE], truth)
        took[name].append(statistics.median(times))
        loop[name].append(statistics.median(on_loop))
    what = f"{len(cases.body(LARGE)) / 1e6:.0f} MB, request to arrays: "
    share = ratio(took[NATIVE], took[RECEIVE])
    yield _Row(f"{what}time over {RECEIVE}", share, "", 0.32, f"ms: {_medians(took)}")
    share = ratio(loop[NATIVE], loop[AIOHTTP])
    yield _Row(f"{what}CPU of the loop's thread over {AIOHTTP}", share, "", 0.25, f"ms: {_medians(loop)}")


async def _fetch(contender: Any, url: str, count: int) -> tuple[list[float], list[float], Any]:
    taken, on_loop = [], []
    async with contender(url) as get:
        await get(SMALL)
        found = await get(LARGE)
        for _ in range(count):
            begin, cpu = time.perf_counter(), time.thread_time()
            found = await get(LARGE)
            on_loop.append((time.thread_time() - cpu) * 1e3)
            taken.append((time.perf_counter() - begin) * 1e3)
    return taken, on_loop, found


# -------------------------------------------------------------------------------------------------- small, flood


def _small(url: str, rounds: int) -> _Row:
    cpu = defaultdict[str, list[float]](list)
    for name in _rounds((NATIVE, PYQWEST), rounds):
        cpu[name].append(asyncio.run(_stream(CLIENTS[name], url)))
    what = f"{_SMALL_RESPONSES:,} answers of {CASES[SMALL].completion} tokens, {_SMALL_AT_ONCE} in flight: "
    return _Row(f"{what}CPU over {PYQWEST}", ratio(cpu[NATIVE], cpu[PYQWEST]), "", 1.0, f"us each: {_medians(cpu, 0)}")


async def _stream(contender: Any, url: str) -> float:
    async with contender(url) as get:
        await asyncio.gather(*(get(SMALL) for _ in range(_SMALL_AT_ONCE)))
        left = iter(range(_SMALL_RESPONSES))

        async def worker() -> None:
            for _ in left:
                await get(SMALL)

        cpu = time.process_time()
        await asyncio.gather(*(worker() for _ in range(_SMALL_AT_ONCE)))
        return (time.process_time() - cpu) / _SMALL_RESPONSES * 1e6


def _in_flight(rounds: int) -> _Row:
    seconds = defaultdict[str, list[float]](list)
    with served({SMALL: cases.body(SMALL)}, delay=_DELAY) as url:
        for name in _rounds((NATIVE, AIOHTTP), rounds):
            seconds[name].append(asyncio.run(_flood(CLIENTS[name], url)))
    what = f"{_IN_FLIGHT:,} in flight, cold, answered after {_DELAY * 1e3:.0f} ms"
    return _Row(what, statistics.median(seconds[NATIVE]), " s", 1.0, f"s: {_medians(seconds)}")


async def _flood(contender: Any, url: str) -> float:
    async with contender(url) as get:
        begin = time.perf_counter()
        completions = await asyncio.gather(*(get(SMALL) for _ in range(_IN_FLIGHT)))
        took = time.perf_counter() - begin
        assert all(len(found.token_ids) == CASES[SMALL].completion for found in completions)
    return took


def _memory() -> _Row:
    calls = min(_CALLS, every_descriptor() - _SPARE_DESCRIPTORS)
    with served({SMALL: cases.body(SMALL)}, delay=1.0, together=calls) as url:
        command = [sys.executable, "-m", "benches.transport_memory", url, str(calls)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
    what = f"{calls:,} in flight, each waiting for its answer: memory of a call"
    return _Row(what, float(done.stdout), " KiB", 64, "")


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 5).markdown())
