"""What decoding costs beside time: memory, other threads, and what a large heap makes of it."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benches import cases, speed
from benches.measure import Table, times_faster
from benches.rivals import OURS, contenders, prove

CASES_OF_MEMORY = ["b_vllm_top5", "c_vllm", "c_nvext", "c_vllm_noexp", "d_vllm", "e_vllm"]
CASES_OF_LAG = ["b_vllm_top5", "c_vllm", "c_nvext", "c_vllm_noexp", "d_vllm", "e_vllm"]
CASES_OF_HEAP = ["b_vllm", "b_vllm_top5", "c_vllm_noexp", "e_vllm"]

# By hand: the one that holds the least, and the one that is fastest.
_BY_HAND = ("msgspec, typed", "msgspec", "pysimdjson, blob apart")

_OBJECTS = 1_000_000
_MIB = 2**20


def _shown(case: cases.Case) -> list[str]:
    """Today's way, those by hand, and this library."""
    names = [*contenders(case)]
    return [names[0], *(name for name in names if name in _BY_HAND), OURS]


# ------------------------------------------------------------------------------------------------------------ memory


def memory(names: Sequence[str], *, full: bool = False) -> Iterator[Table]:
    """Peak resident memory of one decode in a fresh process, beyond what was there before and beyond the result."""
    rows = []
    data = {}
    for name in names:
        extra: dict[str, tuple[float, float]] = {}
        for rival in _shown(cases.CASES[name]):
            asked = {"case": name, "rival": rival, "full": full}
            runs = [_child("memory", asked) for _ in range(3 if rival == OURS else 1)]
            extra[rival] = statistics.median(run["peak"] - run["result"] for run in runs), runs[0]["result"]
        today = next(iter(extra))
        hand = min((rival for rival in extra if rival not in (OURS, today)), key=lambda rival: extra[rival][0])
        beyond, result = extra[OURS]
        figures = [f"{result:.1f}", f"{beyond:+.2f}", f"{extra[today][0]:+.1f}", f"{extra[hand][0]:+.1f} ({hand})"]
        rows.append([name, *figures])
        data[name] = {"extra": beyond, "result": result}
    columns = ["case", "result MiB", f"{OURS}: beyond it", "today's way: beyond it", "least by hand: beyond it"]
    yield Table("Memory" + (", all rows" if full else ""), columns, rows, _MEMORY_NOTE, data)


_MEMORY_NOTE = (
    "Peak resident memory (VmHWM, reset before the decode) of a fresh process, beyond what was resident before and "
    "beyond the arrays that come out, in MiB; ours is the median of three processes. Below zero: memory that the "
    "process held already."
)


def _memory_of(asked: dict[str, Any]) -> dict[str, float]:
    case = cases.CASES[asked["case"]]
    rival, full = asked["rival"], asked["full"]
    # Code, tables and parsers are loaded by a small body of the same kind.
    small = replace(case, total=64, completion=16, layers=min(case.layers, 1), top_k=min(case.top_k, 1))
    contenders(small, full=full)[rival](cases.make(small)[0], small.prompt)
    contender = contenders(case, full=full)[rival]
    body = cases.body(asked["case"])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _status("VmRSS")
    found = contender(body, 0 if full else case.prompt)
    peak = _status("VmHWM") - before
    result = sum(array.nbytes for array in found if array is not None) / _MIB
    prove(contender, body, case, cases.truth(asked["case"]), full=full)
    return {"peak": peak, "result": result}


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(key))
    return int(line.split()[1]) / 1024.0


# --------------------------------------------------------------------------------------------------------------- lag


def lag(names: Sequence[str], rounds: int, *, full: bool = False) -> Iterator[Table]:
    """How late a 1 ms ticker of the event loop gets while another thread decodes."""
    rows = []
    data = {}
    for name in names:
        case = cases.CASES[name]
        body, truth = cases.load(name)
        late: dict[str, float] = {}
        for rival in _shown(case):
            contender = contenders(case, full=full)[rival]
            prove(contender, body, case, truth, full=full)
            work = partial(contender, body, 0 if full else case.prompt)
            late[rival] = asyncio.run(_lateness(work, rounds))
        today = next(iter(late))
        hand = min((rival for rival in late if rival not in (OURS, today)), key=late.__getitem__)
        figures = [f"{late[OURS]:.2f}", f"{late[today]:.1f}", f"{late[hand]:.1f} ({hand})"]
        rows.append([name + (", all rows" if full else ""), *figures])
        data[name] = late[OURS]
    yield Table("Event loop", ["case", OURS, "today's way", "least by hand"], rows, _LAG_NOTE, data)


_LAG_NOTE = (
    "How late a 1 ms ticker on the event loop gets while `asyncio.to_thread` decodes: the worst tick of each decode, "
    "the median over 15 decodes, less the same where the thread sleeps as long; milliseconds."
)


async def _lateness(work: Callable[[], object], rounds: int) -> float:
    begin = time.perf_counter()
    work()
    span = time.perf_counter() - begin
    worst = [(await _worst_tick(work), await _worst_tick(partial(time.sleep, span))) for _ in range(rounds)]
    busy = statistics.median(while_decoding for while_decoding, _ in worst)
    idle = statistics.median(while_asleep for _, while_asleep in worst)
    return (busy - idle) * 1e3


async def _worst_tick(work: Callable[[], object]) -> float:
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            late = max(late, time.perf_counter() - begin - 0.001)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.005)
    late = 0.0
    result = await asyncio.to_thread(work)
    await asyncio.sleep(0.003)  # the tick that was due meanwhile
    ticker.cancel()
    del result
    return late


# -------------------------------------------------------------------------------------------------------------- heap


def heap(names: Sequence[str], rounds: int) -> Iterator[Table]:
    """The same ratios in a process whose garbage collector has two million objects to look at."""
    rows = []
    for name in names:
        leads = []
        for count in (0, _OBJECTS):
            child = _child("heap", {"case": name, "rounds": rounds, "objects": count})
            leads.append((child["today"], child["hand"], child["ours"]))
        empty, full = leads
        figures = [[times_faster(side[column]) for side in (empty, full)] for column in (0, 1)]
        rows.append([name, *(f"{a} → {b}" for a, b in figures), f"{full[2] / empty[2]:.2f}"])
    columns = ["case", "against today's way", "against the best by hand", "our time with, over without"]
    yield Table("A large heap", columns, rows, _HEAP_NOTE)


_HEAP_NOTE = "In an empty process → in one that holds a million dicts and a million lists."


def _heap_of(asked: dict[str, Any]) -> dict[str, float]:
    held = [({"n": number}, [number]) for number in range(asked["objects"])]
    gc.collect()
    result = speed.measure(asked["case"], asked["rounds"])
    assert len(held) == asked["objects"]
    return {"today": result.lead(result.today), "hand": result.lead(result.by_hand), "ours": result.median()}


# ---------------------------------------------------------------------------------------------------------- children


def _child(what: str, asked: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benches.beside", what, json.dumps(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps({"memory": _memory_of, "heap": _heap_of}[sys.argv[1]](json.loads(sys.argv[2]))))
