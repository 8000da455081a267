"""Clients against embedded engines for long: each response right or a typed error, and nothing grows.

``python -m benches.soak [--small N] [--large M]``. Every route takes turns, over the native engine; one request in a
hundred meets a fault of its own, and from time to time an engine dies, restarts or drops connections as they are made.
Each outcome is held against what the engines noted. Exits with 1 when one of the promises is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import dynamo_tito as tito
from benches.soak_engine import ABORTED_AT, LABELS, NUMBER, ROUTES, SETTINGS, Route, Size
from dynamo_tito.simulator import Engine
from dynamo_tito.simulator.model import Sample

WARM_UP: Final = 0.1
"""Share of the requests after which memory is compared."""

GROWTH: Final = 0.05
"""By how much the memory of one part of the run may exceed that of another."""

_WINDOWS = 9
_SAMPLES = 900
_PROMPTS: dict[Size, int] = {"small": 16, "large": 4}
_SHAPES: dict[Size, tuple[int, int]] = {"small": (24, 16), "large": (6144, 2048)}
"""Tokens of a prompt and of a completion, at least."""

_WORKERS = 4
"""Requests for small answers in flight, of each client."""

_GROUP = 4
"""Requests for large answers in flight, of all clients."""

_DEADLINE = 10.0


class Outcome(IntEnum):
    """What became of a request, as the client sees it."""

    OPEN = 0
    RIGHT = 1
    ABORTED = 2
    TITO_ERROR = 3
    TRANSPORT_ERROR = 4
    WRONG = 5
    OTHER_ERROR = 6


class Truth(NamedTuple):
    """What an engine says to a prompt, as a client must see it."""

    prompt: list[int]
    sample: Sample
    logprobs: np.ndarray[Any, np.dtype[np.float64]]
    experts: np.ndarray[Any, np.dtype[np.generic]]


@functools.cache
def truth(size: Size, number: int) -> Truth:
    """The truth of one of the prompts; all engines of a size are one model."""
    engine = _model(size)
    prompt_len, completion = _SHAPES[size]
    prompt = [300 + (number * 7919 + position * 31) % 20_000 for position in range(prompt_len + number)]
    sample = engine.model.sample(prompt, completion + number, version=engine.admin.weights)
    return Truth(prompt, sample, sample.logprobs, sample.routed_experts)


@functools.cache
def _model(size: Size) -> Engine:
    return Engine(**SETTINGS[size])


def judge(completion: tito.Completion, expected: Truth) -> Outcome:
    """Whether the completion is the truth, or the beginning of it that an abort leaves."""
    aborted = bool(completion.aborted)
    count = ABORTED_AT if aborted else len(expected.sample.token_ids)
    rows = len(expected.prompt) + count - 1
    experts, logprobs = completion.routed_experts, completion.logprobs
    if experts is None or logprobs is None:
        return Outcome.WRONG
    right = (
        np.array_equal(completion.token_ids, expected.sample.token_ids[:count])
        and np.array_equal(logprobs.astype(np.float32), expected.logprobs[:count].astype(np.float32))
        and np.array_equal(experts.array, expected.experts[:rows])
        and experts.start == 0
        and experts.complete
        and completion.finish_reason in (("abort",) if aborted else ("length", "stop"))
    )
    return (Outcome.ABORTED if aborted else Outcome.RIGHT) if right else Outcome.WRONG


@dataclass(frozen=True, slots=True)
class State:
    """What the process holds at one moment."""

    done: int
    rss: int
    descriptors: int
    tasks: int


def state(done: int) -> State:
    """Now; bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is wanted, only how many
    return State(done, pages * os.sysconf("SC_PAGESIZE"), descriptors, len(asyncio.all_tasks()))


@dataclass
class Run:
    """One campaign: counts, and what is kept per request, which is one byte and a line for what was not right."""

    small: int
    large: int
    failures: TextIO
    ends: float = math.inf
    outcomes: bytearray = field(init=False)
    states: list[State] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    asked: Counter[Size] = field(default_factory=Counter)
    done: int = 0

    def __post_init__(self) -> None:
        self.outcomes = bytearray(b"\xff" * self.total)
        for place in range(self.total):
            self.outcomes[place] = Outcome.OPEN

    @property
    def total(self) -> int:
        """Requests in all; the large ones have the last numbers."""
        return self.small + self.large

    def numbers(self, size: Size) -> Iterator[int]:
        """Those of the requests of this size, until all are asked or the time is over; shared by all who ask."""
        first, count = (0, self.small) if size == "small" else (self.small, self.large)
        for number in range(first, first + count):
            if time.monotonic() > self.ends:
                return
            self.asked[size] += 1
            yield number

    def answered(self) -> Iterator[tuple[int, Outcome]]:
        """Every request that was asked, and what became of it."""
        for first, count in ((0, self.asked["small"]), (self.small, self.asked["large"])):
            for number in range(first, first + count):
                yield number, Outcome(self.outcomes[number])


async def _ask(
    run: Run,
    client: tito.AsyncTitoClient,
    engine: int,
    size: Size,
    number: int,
    together: asyncio.Barrier | None = None,
) -> None:
    """One request and its verdict, the latter not before the others of its group have their answers."""
    expected = truth(size, number % _PROMPTS[size])
    begin = time.monotonic()
    problem: BaseException | None = None
    outcome = Outcome.OPEN
    completion = None
    try:
        completion = await client.generate(
            expected.prompt,
            sampling_params={"max_tokens": len(expected.sample.token_ids)},
            extra_headers={NUMBER: str(number)},
            deadline=_DEADLINE,
        )
    except tito.TransportError as error:
        outcome, problem = Outcome.TRANSPORT_ERROR, error
    except tito.TitoError as error:
        outcome, problem = Outcome.TITO_ERROR, error
    except Exception as error:  # noqa: BLE001 - anything else breaks the promise, and is reported as such
        outcome, problem = Outcome.OTHER_ERROR, error
    if problem is not None:
        run.kinds[type(problem).__name__] += 1
        run.failures.write(f"{number} {engine} {begin} {time.monotonic()} {problem!r}\n")
    if together is not None:
        await together.wait()
    run.outcomes[number] = outcome if completion is None else judge(completion, expected)
    run.done += 1


async def _client(stack: AsyncExitStack, url: str, size: Size, route: Route) -> tito.AsyncTitoClient:
    settings = SETTINGS[size]
    return await stack.enter_async_context(
        tito.AsyncTitoClient(
            url,
            model="tito-model",
            transport=route.transport,
            num_layers=settings["num_layers"],
            top_k=settings["top_k"],
            require_routed_experts=True,
            retries=tito.RetryPolicy(initial=0.01, maximum=0.05),
        )
    )


async def _start_the_core() -> None:
    """Start the thread of the core's HTTP engine, whose descriptors stay for the life of the process."""
    async with tito.AsyncTitoClient("http://127.0.0.1:1", model=None, retries=None, preflight=False) as client:
        with suppress(tito.TransportError):
            await client.generate([1])


async def _campaign(run: Run, addresses: list[tuple[Size, str, str]], progress: Progress) -> tuple[State, State]:
    """All requests; the states before the first client and after the last."""
    _prepare()
    await _start_the_core()
    before = state(0)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        numbers = {size: run.numbers(size) for size in get_args(Size)}
        lanes: dict[Size, list[tuple[tito.AsyncTitoClient, int]]] = {"small": [], "large": []}
        for size, route in itertools.product(get_args(Size), ROUTES):
            wanted = size, route.backend
            place = next(place for place, (of, backend, _) in enumerate(addresses) if (of, backend) == wanted)
            client = await _client(stack, addresses[place][2], size, route)
            lanes[size].append((client, place))

        async def small(client: tito.AsyncTitoClient, engine: int) -> None:
            for number in numbers["small"]:
                await _ask(run, client, engine, "small", number)

        turns = itertools.cycle(lanes["large"])

        async def large() -> None:
            # Spread over the whole run, so that every part of it costs the same. As of the samples of one prompt, the
            # answers of a group are all held until the last is there, so that every part of the run holds as much.
            while group := [*zip(itertools.islice(numbers["large"], _GROUP), turns, strict=False)]:
                due = (group[0][0] - run.small) / max(run.large, 1) * run.small
                while run.done < due and time.monotonic() < run.ends:  # noqa: ASYNC110 - counts have no event
                    await asyncio.sleep(0.02)
                together = asyncio.Barrier(len(group))
                async with asyncio.TaskGroup() as asked:
                    for number, (client, engine) in group:
                        asked.create_task(_ask(run, client, engine, "large", number, together))

        watch = tasks.create_task(_watch(run, progress))
        async with asyncio.TaskGroup() as asking:
            for client, engine in lanes["small"]:
                for _ in range(_WORKERS):
                    asking.create_task(small(client, engine))
            asking.create_task(large())
        watch.cancel()
    await asyncio.sleep(0.1)  # sockets close a turn of the loop later
    return before, state(run.done)


def _prepare() -> None:
    for size in get_args(Size):
        for number in range(_PROMPTS[size]):
            truth(size, number)


async def _watch(run: Run, progress: Progress) -> None:
    bar = progress.add_task("requests", total=run.total)
    step = max(1, run.total // _SAMPLES)
    began = time.monotonic()
    due = step
    while True:
        await asyncio.sleep(0.02)
        if run.done >= due:
            due = run.done + step
            run.states.append(state(run.done))
            progress.update(bar, completed=run.done)
            if not progress.console.is_terminal and len(run.states) % (_SAMPLES // 50) == 0:
                rate = run.done / (time.monotonic() - began)
                left = (run.total - run.done) / rate
                memory = run.states[-1].rss / (1 << 20)
                progress.console.print(f"{run.done:,} at {rate:,.0f}/s, {left:,.0f} s left, {memory:.1f} MiB")


# ---------------------------------------------------------------------------------------------------------- verdict

_MUST_FAIL = ("error_body", "length", "reset", "stall", "status", "truncate", "trickle body slow", "wrong_rows", "die")
_MAY_FAIL = ("not_ready", "restart")


def problems(run: Run, ledger: Any, failures: Iterator[str]) -> tuple[list[str], dict[str, Counter[str]]]:
    """Every request that is not accounted for, in words; and outcomes by what the request met."""
    disrupted: dict[int, list[tuple[float, float]]] = {}
    for engine, begin, end in ledger["disrupted"]:
        disrupted.setdefault(int(engine), []).append((begin, end))
    excused: dict[int, str] = {}
    said: dict[int, str] = {}
    for line in failures:
        name, engine, begin, end, text = line.rstrip("\n").split(" ", 4)
        failed = int(name)
        said[failed] = text
        # A connection that was lost may be noticed, and another refused, a moment later.
        if any(a <= float(end) + 1.0 and b >= float(begin) - 1.0 for a, b in disrupted.get(int(engine), ())):
            excused[failed] = "beside a disruption"
    found: list[str] = []
    table: dict[str, Counter[str]] = {}
    for number, outcome in run.answered():
        met = LABELS[ledger["met"][number]]
        sampled, hits = int(ledger["sampled"][number]), int(ledger["hits"][number])
        aside = met == "none" and outcome is Outcome.TRANSPORT_ERROR and number in excused
        table.setdefault(excused[number] if aside else met, Counter())[outcome.name] += 1
        why = _unaccounted(outcome, met, sampled, hits, aside=aside or (number in excused and met != "none"))
        if why:
            found.append(f"request {number}: {why}; met {met!r}, {said.get(number, outcome.name)}")
    return found, table


def _unaccounted(outcome: Outcome, met: str, sampled: int, hits: int, *, aside: bool) -> str:
    if sampled > 1:
        return f"sampled {sampled} times"
    if outcome in (Outcome.OPEN, Outcome.WRONG, Outcome.OTHER_ERROR):
        return "no right answer and no typed error"
    if outcome in (Outcome.TITO_ERROR, Outcome.TRANSPORT_ERROR):
        caused = aside or met == "abort sampled" or met.startswith((*_MUST_FAIL, *_MAY_FAIL))
        return "" if caused else "an error without a cause"
    if sampled != 1 or not hits:
        return f"answered, but sampled {sampled} times in {hits} hits"
    if (outcome is Outcome.ABORTED) != (met == "abort sampled"):
        return "an abort that is not the engine's, or that is lost"
    return "an answer where there cannot be one" if met.startswith(_MUST_FAIL) else ""


def _share(values: list[float]) -> float:
    return max(values) / min(values) - 1


def growth(states: list[State], total: int) -> tuple[list[float], float]:
    """The median memory of each part after the warm-up, in MiB, and the largest over the least."""
    parts: list[list[int]] = [[] for _ in range(_WINDOWS)]
    for one in states:
        place = math.floor((one.done / total - WARM_UP) / (1 - WARM_UP) * _WINDOWS)
        if place >= 0:
            parts[min(place, _WINDOWS - 1)].append(one.rss)
    medians = [statistics.median(part) / (1 << 20) for part in parts if part]
    return medians, _share(medians)


@contextmanager
def _served(run: Run, ledger: Path, every: int) -> Iterator[list[tuple[Size, str, str]]]:
    command = [sys.executable, "-m", "benches.soak_engine", str(ledger), str(run.small), str(run.large), str(every)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
            process.stdin.close()
            process.wait(timeout=120)
        finally:
            process.kill()


def main() -> int:
    """Run, report, and compare with the guarantees."""
    parser = argparse.ArgumentParser(prog="python -m benches.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", type=int, default=20_000, help="responses of a few KB")
    parser.add_argument("--large", type=int, default=40, help="responses of megabytes, with routed experts")
    parser.add_argument("--every", type=int, default=5_000, help="requests of an engine between two disruptions")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end sooner than that")
    parser.add_argument("--brief", action="store_true", help="too short a run to judge memory by")
    options = parser.parse_args()
    console = Console()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as folder:
        ledger, lines = Path(folder, "ledger.npz"), Path(folder, "failures")
        with lines.open("w", encoding="utf-8") as failures, Progress(*columns, console=console) as progress:
            run = Run(options.small, options.large, failures, time.monotonic() + 60 * options.minutes)
            with _served(run, ledger, options.every) as addresses:
                began = time.monotonic()
                before, after = asyncio.run(_campaign(run, addresses, progress))
                seconds = time.monotonic() - began
        with lines.open(encoding="utf-8") as failures, np.load(ledger) as noted:
            kept = {name: noted[name] for name in noted.files}
            found, outcomes = problems(run, kept, iter(failures))
    _report(console, run, outcomes, kept, seconds)
    found += _steady(console, run, before, after, judge_memory=not options.brief)
    for line in found[:20]:
        console.print(line, style="red", markup=False, highlight=False)
    console.print(f"{len(found)} promises broken" if found else "every response accounted for", style="bold")
    return 1 if found else 0


def _report(console: Console, run: Run, outcomes: dict[str, Counter[str]], ledger: Any, seconds: float) -> None:
    table = Table("the request met", "requests", "right", "aborted", "typed error", "of it transport")
    for met, counts in sorted(outcomes.items(), key=lambda item: -item[1].total()):
        failed = counts["TITO_ERROR"] + counts["TRANSPORT_ERROR"]
        shown = (counts.total(), counts["RIGHT"], counts["ABORTED"], failed, counts["TRANSPORT_ERROR"])
        table.add_row(met, *(f"{value:,}" for value in shown))
    console.print(table)
    errors = ", ".join(f"{name} {count:,}" for name, count in run.kinds.most_common())
    asked = f"{run.asked['small']:,} small and {run.asked['large']:,} large"
    console.print(f"{asked} in {seconds:,.0f} s, {run.done / seconds:,.0f}/s")
    console.print(f"errors: {errors or 'none'}")
    console.print(
        f"hits {int(ledger['hits'].sum()):,}, sampled {int(ledger['sampled'].sum()):,}, "
        f"most samples of one request {int(ledger['sampled'].max())}, strikes {len(ledger['disrupted']):,}",
    )


def _steady(console: Console, run: Run, before: State, after: State, *, judge_memory: bool) -> list[str]:
    """What grew that should not have."""
    found = []
    medians, share = growth(run.states, run.done)
    console.print(f"memory after the warm-up, MiB: {' '.join(f'{value:.1f}' for value in medians)}")
    console.print(f"largest over least: {share:+.1%}; peak {max(one.rss for one in run.states) / (1 << 20):.1f} MiB")
    if judge_memory and share > GROWTH:
        found.append(f"memory is not flat: {share:+.1%}")
    warm = [one for one in run.states if one.done >= WARM_UP * run.done]
    half = len(warm) // 2
    workers = _WORKERS * 2 * len(ROUTES) + _GROUP
    for name in ("descriptors", "tasks"):
        early = max(getattr(one, name) for one in warm[: half or 1])
        late = max(getattr(one, name) for one in warm[half:])
        begin, end = getattr(before, name), getattr(after, name)
        console.print(f"{name}: {begin} before, at most {early} and then {late} during, {end} after")
        if late > begin + 4 * workers or end > begin:
            found.append(f"{name} grow")
    return found


if __name__ == "__main__":
    sys.exit(main())
