"""The servers of ``benches.soak``: embedded engines in a process of their own, and the ledger of what they did.

``python -m benches.soak_engine LEDGER SMALL LARGE EVERY`` prints the addresses as JSON, serves until its standard input
closes, and then writes the ledger. An answer is made once and then repeated, which keeps the engines cheap; handing it
out counts as sampling.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from dynamo_tito._config import RendererTransport
from dynamo_tito.simulator import Backend, Engine, Fault
from dynamo_tito.simulator.app import App
from dynamo_tito.simulator.calls import Ask, Call
from dynamo_tito.simulator.faults import FaultPlan
from dynamo_tito.simulator.flight import Flight
from dynamo_tito.simulator.response import Response

Size = Literal["small", "large"]

NUMBER = "x-soak"
"""The header that numbers a request."""

ABORTED_AT = 5
"""Tokens after which an injected abort strikes."""


class Route(NamedTuple):
    """A server and the way to ask it."""

    backend: Backend
    transport: RendererTransport


ROUTES = (
    Route("dynamo", "dynamo_chat"),
    Route("dynamo", "dynamo_completions"),
    Route("dynamo", "vllm_generate"),
    Route("vllm", "vllm_generate"),
    Route("prime", "vllm_generate"),
    Route("prime", "prime_chat_tokens"),
    Route("sglang", "sglang_generate"),
)

SETTINGS: dict[Size, dict[str, Any]] = {
    "small": {"num_layers": 4, "top_k": 2, "num_experts": 128},
    "large": {"num_layers": 48, "top_k": 8, "num_experts": 128},
}

RATE = 0.01
"""Share of the requests with one of :data:`FAULTS`."""

FAULTS = (
    Fault(kind="status", status=429, headers={"retry-after": "0.01"}),
    Fault(kind="not_ready"),
    Fault(kind="delay", seconds=0.05),
    Fault(kind="delay", phase="sampled", seconds=0.05),
    *(Fault(kind="trickle", chunk=1500, at=0.5, framing=framing) for framing in ("length", "chunked", "close")),
    Fault(kind="abort", at=ABORTED_AT),
    Fault(kind="finish", message="stop"),
    *(Fault(kind="status", status=status) for status in (400, 401, 404, 422, 500, 502, 503, 504)),
    Fault(kind="status", phase="sampled", status=503),
    Fault(kind="error_body"),
    Fault(kind="error_body", phase="request"),
    Fault(kind="error_body", body=b"<html>"),
    *(Fault(kind="reset", phase=phase) for phase in ("request", "sampled", "headers", "body")),
    *(Fault(kind="reset", at=0.5, framing=framing) for framing in ("length", "chunked", "close")),
    *(Fault(kind="stall", phase=phase) for phase in ("request", "sampled", "headers", "body")),
    Fault(kind="truncate", phase="headers", at=0.5),
    *(Fault(kind="truncate", at=at, framing="length") for at in (0, 0.5, -1)),
    *(Fault(kind="truncate", at=at, framing="chunked") for at in (0, 0.5, -1)),
    *(Fault(kind="truncate", at=at, framing="close") for at in (0, 0.5, -1)),
    Fault(kind="trickle", chunk=1, seconds=0.1),
    Fault(kind="length", by=1),
    Fault(kind="length", by=-1),
    Fault(kind="wrong_rows", by=1),
    Fault(kind="wrong_rows", by=-1),
)  # fmt: skip

DISRUPTIONS = (
    Fault(kind="reset", phase="accept"),
    Fault(kind="die"),
    Fault(kind="stall", phase="accept"),
    Fault(kind="restart"),
    Fault(kind="die", phase="sampled"),
)
"""What strikes more than one request; one of them every so many requests of an engine."""

_GONE = 0.05
"""Seconds for which the port of an engine that died is closed."""


def label(fault: Fault | None) -> str:
    """A fault in two words, three where the third makes the difference."""
    if fault is None:
        return "none"
    slow = " slow" if fault.kind == "trickle" and fault.chunk == 1 else ""
    return f"{fault.kind} {fault.when}{slow}"


LABELS = ("none", *sorted({label(fault) for fault in (*FAULTS, *DISRUPTIONS)}))


class Ledger:
    """What happened to every request, by its number."""

    def __init__(self, count: int) -> None:
        self.hits = np.zeros(count, np.uint8)
        self.sampled = np.zeros(count, np.uint8)
        #: Place in :data:`LABELS` of what the last hit met.
        self.met = np.zeros(count, np.uint8)
        #: Engine, begin and end of what struck more than one request.
        self.disrupted: list[tuple[int, float, float]] = []

    def write(self, path: Path) -> None:
        """All of it as one file."""
        disrupted = np.array(self.disrupted, np.float64).reshape(-1, 3)
        np.savez(path, hits=self.hits, sampled=self.sampled, met=self.met, disrupted=disrupted)


class Counting(Engine):
    """An engine that numbers what it samples, and repeats answers that it has given before."""

    def __init__(self, place: int, ledger: Ledger, every: int, **settings: Any) -> None:
        super().__init__(keep_records=1, **settings)
        self.faults = _Plan(self)
        self._place, self._ledger, self._every = place, ledger, every
        self._known: dict[tuple[str, bytes], Response] = {}
        self._disruptions = itertools.cycle(DISRUPTIONS[place % len(DISRUPTIONS) :] + DISRUPTIONS)

    async def start(self) -> None:
        """Listen, always at the same address."""
        await super().start()
        self.config = replace(self.config, port=int(self.url.rpartition(":")[2]))

    def restart(self) -> None:
        """Be a new process, and note that the connections of the old one are gone."""
        self.strike()
        super().restart()

    def strike(self, seconds: float = 0.0) -> None:
        """From now on, for this long, requests may fail that met no fault of their own."""
        now = time.monotonic()
        self._ledger.disrupted.append((self._place, now, now + seconds))

    async def disrupt(self) -> None:
        """For good: the next disruption when it is due, and back again when the engine has died."""
        due = self._every
        while True:
            await asyncio.sleep(0.005)
            if self.stopped:
                self.strike(_GONE)
                await asyncio.sleep(_GONE)
                await self.start()
            if self.total_requests >= due:
                due += self._every
                self.inject(next(self._disruptions))

    async def _answer(self, app: App, call: Call) -> Response:
        number = int(call.request.headers.get(NUMBER, -1))
        if number < 0:
            return await super()._answer(app, call)
        self._ledger.hits[number] += 1
        self._ledger.met[number] = LABELS.index(label(call.fault))
        key = call.request.path, call.request.body
        known = self._known.get(key)
        if known is not None and call.fault is None:
            self._ledger.sampled[number] += 1
            return replace(known, headers=dict(known.headers))
        response = await super()._answer(app, call)
        if call.fault is None and response.status == 200:
            self._known[key] = replace(response, headers=dict(response.headers))
        return response

    async def take_off(self, call: Call, *asks: Ask, streams: bool = False) -> Flight:
        """Begin to sample, and count it."""
        flight = await super().take_off(call, *asks, streams=streams)
        self._ledger.sampled[int(call.request.headers[NUMBER])] += 1
        return flight


class _Plan(FaultPlan):
    """Random faults, and a note when a connection is struck that no request has come over yet."""

    def __init__(self, engine: Counting) -> None:
        super().__init__(seed=engine.config.seed, rate=RATE, random_faults=FAULTS)
        self._engine = engine

    def on_accept(self) -> Fault | None:
        fault = super().on_accept()
        if fault is not None:
            self._engine.strike()
        return fault


async def _serve(ledger: Ledger, every: dict[Size, int]) -> None:
    kinds = [(size, backend) for size in get_args(Size) for backend in get_args(Backend)]
    engines = [
        Counting(place, ledger, every[size], backend=backend, **SETTINGS[size])
        for place, (size, backend) in enumerate(kinds)
    ]
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine)
        addresses = [[*kind, engine.url] for kind, engine in zip(kinds, engines, strict=True)]
        print(json.dumps(addresses), flush=True)
        disrupting = [asyncio.create_task(engine.disrupt()) for engine in engines]
        await asyncio.to_thread(sys.stdin.read)
        for task in disrupting:
            task.cancel()
        await asyncio.gather(*disrupting, return_exceptions=True)


def _main(path: str, small: int, large: int, every: int) -> None:
    ledger = Ledger(small + large)
    asyncio.run(_serve(ledger, {"small": every, "large": max(1, every * large // max(small, 1))}))
    ledger.write(Path(path))


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:5]))
