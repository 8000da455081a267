"""Receiving: one large response, many at once, and thousands in flight. ``python -m benches.transport [rounds]``."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import httpx2
import numpy as np
import openai

import dynamo_tito as tito
from benches import cases
from benches.cases import CASES, Case, Truth
from benches.measure import Table, milliseconds, ratio, times_faster
from benches.rivals import contenders
from benches.serving import served
from dynamo_tito._config import HttpLibrary

Get: TypeAlias = Callable[[str], Awaitable[Any]]
"""Fetches the answer of a case and does with it what this contender does."""

TODAY = "httpx + renderers/verifiers"
RECEIVE = "AsyncOpenAI.post, received only"

_LARGE, _MIDDLE, _SMALL = "c_vllm", "b_vllm", "a_vllm"
_AT_ONCE, _RESPONSES = 64, 128
_IN_FLIGHT, _DELAY = 2_000, 0.5


def tables(rounds: int) -> Iterator[Table]:
    """The three measurements."""
    with served({name: cases.body(name) for name in (_LARGE, _MIDDLE, _SMALL)}) as url:
        yield _single(url, rounds)
        yield _many(url, rounds)
    with served({_SMALL: cases.body(_SMALL)}, delay=_DELAY) as url:
        yield _in_flight(url)


# --------------------------------------------------------------------------------------------------- contenders


@asynccontextmanager
async def _openai(url: str) -> AsyncIterator[Get]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:

        async def get(case: str) -> bytes:
            response = await client.post(f"{url}/{case}/x", cast_to=httpx2.Response, body={})
            content: bytes = response.content
            return content

        yield get


@asynccontextmanager
async def _today(url: str) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=1_000, max_keepalive_connections=1_000)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

        async def get(case: str) -> Any:
            response = await client.post(f"{url}/{case}/x", content=b"{}")
            decode = next(iter(contenders(CASES[case]).values()))
            return decode(response.content, CASES[case].prompt)

        yield get


def _ours(library: HttpLibrary) -> Callable[[str], Any]:
    prompts = {name: np.random.RandomState(0).randint(0, 151_936, case.prompt) for name, case in CASES.items()}

    @asynccontextmanager
    async def contender(url: str) -> AsyncIterator[Get]:
        clients = {
            name: tito.AsyncTitoClient(f"{url}/{name}", model="m", http=library, preflight=False)
            for name in (_LARGE, _MIDDLE, _SMALL)
        }

        async def get(case: str) -> tito.Completion:
            prompt = prompts[case]
            return await clients[case].generate(prompt, routed_experts_prompt_start=len(prompt))

        try:
            yield get
        finally:
            for client in clients.values():
                await client.aclose()

    return contender


OURS: dict[str, Callable[[str], Any]] = {"dynamo-tito, httpx": _ours("httpx"), "dynamo-tito, aiohttp": _ours("aiohttp")}


def _prove(completion: tito.Completion, case: Case, truth: Truth) -> None:
    truth = truth.without_prompt(case)
    assert np.array_equal(completion.token_ids, truth.token_ids)
    assert np.array_equal(completion.logprobs, truth.logprobs)  # type: ignore[arg-type]
    assert completion.routed_experts is not None
    assert np.array_equal(completion.routed_experts.array, truth.experts)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- one response


def _single(url: str, rounds: int) -> Table:
    case = CASES[_LARGE]
    truth = cases.truth(_LARGE)
    contended: dict[str, Any] = {RECEIVE: _openai, TODAY: _today, **OURS}
    times: dict[str, list[float]] = {name: [] for name in contended}
    for number in range(rounds):
        order = list(contended) if number % 2 else list(reversed(contended))
        for name in order:
            taken, found = asyncio.run(_fetch(contended[name], url, 3))
            if name in OURS:
                _prove(found, case, truth)
            times[name].append(statistics.median(taken))
    rows = []
    for name, column in times.items():
        share = 1 / ratio(times[RECEIVE], column)
        rows.append([name, f"{share:.2f}", milliseconds(statistics.median(column)), milliseconds(min(column))])
    size = len(cases.body(_LARGE)) / 1e6
    note = f"One response of {size:.0f} MB on loopback, connection open, from the request to its arrays."
    return Table("One response", ["client", f"share of {RECEIVE}", "median ms", "best ms"], rows, note, times)


async def _fetch(contender: Any, url: str, count: int) -> tuple[list[float], Any]:
    taken = []
    async with contender(url) as get:
        await get(_SMALL)
        found = await get(_LARGE)
        for _ in range(count):
            begin = time.perf_counter()
            found = await get(_LARGE)
            taken.append((time.perf_counter() - begin) * 1e3)
    return taken, found


# --------------------------------------------------------------------------------------------------------- many


@dataclass(frozen=True, slots=True)
class _Run:
    rate: float
    lag: float
    cpu: float


def _many(url: str, rounds: int) -> Table:
    contended: dict[str, Any] = {TODAY: _today, **OURS}
    runs: dict[str, list[_Run]] = {name: [] for name in contended}
    for number in range(rounds):
        order = list(contended) if number % 2 else list(reversed(contended))
        for name in order:
            runs[name].append(asyncio.run(_load(contended[name], url)))
    rows = []
    for name, column in runs.items():
        rates, today = [run.rate for run in column], [run.rate for run in runs[TODAY]]
        lag = statistics.median(run.lag / other.lag for run, other in zip(column, runs[TODAY], strict=True))
        rows.append(
            [
                name,
                times_faster(ratio(rates, today)),
                f"{lag:.2f}",
                f"{statistics.median(rates):.0f}",
                milliseconds(statistics.median(run.lag for run in column)),
                milliseconds(statistics.median(run.cpu for run in column)),
            ]
        )
    size = len(cases.body(_MIDDLE)) / 1e6
    note = f"{_RESPONSES} responses of {size:.1f} MB, {_AT_ONCE} at once, connections open, received and decoded."
    leads = ["responses/s over today's", "share of today's p99 lag"]
    columns = ["client", *leads, "responses/s", "p99 loop lag ms", "CPU ms each"]
    return Table("Many responses", columns, rows, note, runs)


async def _load(contender: Any, url: str) -> _Run:
    async with contender(url) as get:
        await asyncio.gather(*(get(_SMALL) for _ in range(_AT_ONCE)))
        for _ in range(2):
            await get(_MIDDLE)
        lags: list[float] = []
        ticker = asyncio.create_task(_tick(lags))
        left = iter(range(_RESPONSES))

        async def worker() -> None:
            for _ in left:
                await get(_MIDDLE)

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        ticker.cancel()
    lags.sort()
    return _Run(_RESPONSES / took, lags[int(0.99 * (len(lags) - 1))], cpu / _RESPONSES * 1e3)


async def _tick(lags: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - begin - 0.001) * 1e3)


# ---------------------------------------------------------------------------------------------------- in flight


def _in_flight(url: str) -> Table:
    rows = []
    seconds: dict[str, list[float]] = {}
    for name, contender in OURS.items():
        seconds[name] = asyncio.run(_flood(contender, url))
        rows.append([name, *(f"{value:.2f}" for value in seconds[name])])
    note = f"{_IN_FLIGHT:,} requests in flight from one process, each answered after {_DELAY * 1e3:.0f} ms."
    return Table("Requests in flight", ["client", "seconds, cold", "seconds, warm"], rows, note, seconds)


async def _flood(contender: Any, url: str) -> list[float]:
    seconds = []
    async with contender(url) as get:
        for _ in range(2):
            begin = time.perf_counter()
            completions = await asyncio.gather(*(get(_SMALL) for _ in range(_IN_FLIGHT)))
            seconds.append(time.perf_counter() - begin)
            assert all(len(found.token_ids) == CASES[_SMALL].completion for found in completions)
    return seconds


if __name__ == "__main__":
    for table in tables(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print(table.markdown(), flush=True)
