"""Receiving: one large response, many at once, small ones, thousands. ``python -m benches.transport [rounds]``.

pyqwest (a client over reqwest, which receives only) is measured beside the others if it is installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import select
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

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
LIMIT = "epoll, recv_into and decode alone"
PYQWEST = "pyqwest, received only"

_LARGE, _MIDDLE, _SMALL = "c_vllm", "b_vllm", "a_vllm"
_AT_ONCE, _RESPONSES = 64, 128
_SMALL_AT_ONCE, _SMALL_RESPONSES = 256, 20_000
_IN_FLIGHT, _DELAY = 2_000, 0.5
_ROOM = 1 << 18


def tables(rounds: int) -> Iterator[Table]:
    """The four measurements."""
    with served({name: cases.body(name) for name in (_LARGE, _MIDDLE, _SMALL)}) as url:
        yield _single(url, rounds)
        yield _many(url, rounds)
        yield _small(url, rounds)
    with served({_SMALL: cases.body(_SMALL)}, delay=_DELAY) as url:
        yield _in_flight(url, rounds)


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


@asynccontextmanager
async def _pyqwest(url: str) -> AsyncIterator[Get]:
    import pyqwest  # noqa: PLC0415 - may not be there

    client = pyqwest.Client(pyqwest.HTTPTransport())

    async def get(case: str) -> Any:
        response = await client.post(f"{url}/{case}/x", content=b"{}")
        return response.content

    yield get


OURS: dict[str, Callable[[str], Any]] = {f"dynamo-tito, {library}": _ours(library) for library in get_args(HttpLibrary)}
OTHERS: dict[str, Callable[[str], Any]] = {PYQWEST: _pyqwest} if importlib.util.find_spec("pyqwest") else {}


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
    loops: dict[str, list[float]] = {name: [] for name in contended}
    for name, number in _rounds(contended, rounds):
        taken, on_loop, found = asyncio.run(_fetch(contended[name], url, 3))
        if name in OURS and number == 0:
            _prove(found, case, truth)
        times[name].append(statistics.median(taken))
        loops[name].append(statistics.median(on_loop))
    rows = []
    for name, column in times.items():
        share = 1 / ratio(times[RECEIVE], column)
        shown = [statistics.median(column), min(column), statistics.median(loops[name])]
        rows.append([name, f"{share:.2f}", *map(milliseconds, shown)])
    size = len(cases.body(_LARGE)) / 1e6
    note = f"One response of {size:.0f} MB on loopback, connection open, from the request to its arrays."
    columns = ["client", f"share of {RECEIVE}", "median ms", "best ms", "CPU ms of the loop's thread"]
    return Table("One response", columns, rows, note, times)


def _rounds(contended: Iterable[str], rounds: int) -> Iterator[tuple[str, int]]:
    """Each contender once a round; every other round backwards."""
    order = list(contended)
    for number in range(rounds):
        for name in order if number % 2 else reversed(order):
            yield name, number


async def _fetch(contender: Any, url: str, count: int) -> tuple[list[float], list[float], Any]:
    taken, on_loop = [], []
    async with contender(url) as get:
        await get(_SMALL)
        found = await get(_LARGE)
        for _ in range(count):
            begin, cpu = time.perf_counter(), time.thread_time()
            found = await get(_LARGE)
            on_loop.append((time.thread_time() - cpu) * 1e3)
            taken.append((time.perf_counter() - begin) * 1e3)
    return taken, on_loop, found


# --------------------------------------------------------------------------------------------------------- many


@dataclass(frozen=True, slots=True)
class _Run:
    rate: float
    lag: float
    cpu: float


def _many(url: str, rounds: int) -> Table:
    contended: dict[str, Any] = {TODAY: _today, **OURS, **OTHERS}
    runs: dict[str, list[_Run]] = {name: [] for name in (*contended, LIMIT)}
    for name, _ in _rounds(runs, rounds):
        runs[name].append(_limit(url) if name == LIMIT else asyncio.run(_load(contended[name], url)))
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
                f"{ratio([run.cpu for run in column], [run.cpu for run in runs[LIMIT]]):.2f}",
            ]
        )
        if name == LIMIT:
            rows[-1][2] = rows[-1][4] = ""
    size = len(cases.body(_MIDDLE)) / 1e6
    note = f"{_RESPONSES} responses of {size:.1f} MB, {_AT_ONCE} at once, connections open, received and decoded."
    leads = ["responses/s over today's", "share of today's p99 lag"]
    columns = ["client", *leads, "responses/s", "p99 loop lag ms", "CPU ms each", "over the limit's"]
    return Table("Many responses", columns, rows, note, runs)


async def _load(contender: Any, url: str) -> _Run:
    async with contender(url) as get:

        async def worker(left: Iterator[int]) -> None:
            for _ in left:
                await get(_MIDDLE)

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
    return _Run(_RESPONSES / took, lags[int(0.99 * (len(lags) - 1))], cpu / _RESPONSES * 1e3)


def _limit(url: str) -> _Run:
    """What nobody can do without: the bytes are received into memory that is reused, and decoded."""
    case, size = CASES[_MIDDLE], len(cases.body(_MIDDLE))
    host, port = url.removeprefix("http://").split(":")
    request = f"POST /{_MIDDLE}/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    connections = [socket.create_connection((host, int(port))) for _ in range(_AT_ONCE)]
    poll = select.epoll()
    received: dict[int, tuple[socket.socket, list[Any]]] = {}

    def ask(connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.sendall(request)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        connection.settimeout(0)
        body = tito.Body(size)
        spare = body.spare(size)
        received[connection.fileno()] = (connection, [body, spare, memoryview(spare), 0])

    def run(responses: int) -> None:
        left = responses
        for connection in connections:
            ask(connection)
            poll.register(connection, select.EPOLLIN)
            left -= 1
        done = 0
        while done < responses:
            for number, _ in poll.poll():
                connection, state = received[number]
                body, room, view, at = state
                state[3] = at = at + connection.recv_into(view[at : at + _ROOM])
                if at < size:
                    continue
                view.release()
                room.filled(size)
                tito.decode(body, wire=case.wire, prompt_len=case.prompt, routed_experts_prompt_start=case.prompt)
                body.close()
                done += 1
                if left > 0:
                    left -= 1
                    ask(connection)
                else:
                    poll.unregister(connection)

    run(_AT_ONCE)
    begin, cpu = time.perf_counter(), time.process_time()
    run(_RESPONSES)
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for connection in connections:
        connection.close()
    return _Run(_RESPONSES / took, 1.0, cpu / _RESPONSES * 1e3)


async def _tick(lags: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - begin - 0.001) * 1e3)


# -------------------------------------------------------------------------------------------------------- small


def _small(url: str, rounds: int) -> Table:
    contended: dict[str, Any] = {**OURS, **OTHERS}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contended}
    for name, _ in _rounds(contended, rounds):
        runs[name].append(asyncio.run(_stream(contended[name], url)))
    rows = []
    for name, column in runs.items():
        cpu = statistics.median(cpu for cpu, _ in column)
        share = f"{ratio([cpu for cpu, _ in column], [cpu for cpu, _ in runs[PYQWEST]]):.2f}" if OTHERS else ""
        rows.append([name, share, f"{cpu:.0f}", f"{statistics.median(rate for _, rate in column):.0f}"])
    size = len(cases.body(_SMALL)) / 1e3
    note = f"{_SMALL_RESPONSES:,} responses of {size:.0f} kB, {_SMALL_AT_ONCE} at once, connections open."
    columns = ["client", f"CPU over {PYQWEST}", "CPU us each", "responses/s"]
    return Table("Small responses", columns, rows, note, runs)


async def _stream(contender: Any, url: str) -> tuple[float, float]:
    async with contender(url) as get:
        await asyncio.gather(*(get(_SMALL) for _ in range(_SMALL_AT_ONCE)))
        left = iter(range(_SMALL_RESPONSES))

        async def worker() -> None:
            for _ in left:
                await get(_SMALL)

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(_SMALL_AT_ONCE)))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return cpu / _SMALL_RESPONSES * 1e6, _SMALL_RESPONSES / took


# ---------------------------------------------------------------------------------------------------- in flight


def _in_flight(url: str, rounds: int) -> Table:
    rows = []
    runs: dict[str, list[list[float]]] = {name: [] for name in OURS}
    for name, _ in _rounds(OURS, min(rounds, 3)):
        runs[name].append(asyncio.run(_flood(OURS[name], url)))
    seconds = {name: [statistics.median(column) for column in zip(*run, strict=True)] for name, run in runs.items()}
    for name, values in seconds.items():
        rows.append([name, *(f"{value:.2f}" for value in values)])
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
