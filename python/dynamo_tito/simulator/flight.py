"""One request while the engine samples it: its pace, and what interrupts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .admin import Admin
from .calls import Ask, Call
from .config import EngineConfig
from .model import Part, Sample

__all__ = ["Delta", "Flight", "Pace", "Sampler"]


class Sampler(Protocol):
    """The engine, as a flight sees it."""

    config: EngineConfig
    admin: Admin
    pace: Pace

    def draw(self, call: Call, ask: Ask, index: int, weights: str, before: Sample | None) -> Sample:
        """What these weights sample for a choice, behind the tokens that it has already."""

    def landed(self, flight: Flight) -> None:
        """A request is no longer being sampled."""


class Pace:
    """How far streams may go: freely, or some steps at a time while a test holds them. Safe from any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        #: Steps that each stream may take in all; None: as many as it likes.
        self.allowed: int | None = None

    def hold(self, after: int = 0) -> None:
        """Let each stream take this many steps from its beginning, and then stand still."""
        self.allowed = after
        self._wake()

    def step(self, count: int = 1) -> None:
        """Let each held stream take some more steps."""
        self.allowed = (self.allowed or 0) + count
        self._wake()

    def release(self) -> None:
        """Let the streams go on freely."""
        self.allowed = None
        self._wake()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step brings one choice of a stream."""

    #: Number of the choice, over all prompts of the request.
    index: int
    #: As it will be when it ends, or with its end when this is the last.
    sample: Sample
    begin: int
    end: int
    last: bool

    @property
    def new(self) -> Sample:
        """The new tokens alone."""
        sample = self.sample.between(self.begin, self.end)
        return sample if self.last else replace(sample, stop_reason=None)

    @property
    def so_far(self) -> Sample:
        """All tokens up to here."""
        return self.sample if self.last else self.sample.between(0, self.end)


class Flight:
    """One request that is being sampled, all of its choices in step.

    What each choice will be is known from the start (`plan`); `made` says how many tokens of it there are. Weights that
    change on the way sample the rest anew.
    """

    def __init__(self, core: Sampler, call: Call, asks: Sequence[Ask], *, streams: bool) -> None:
        self.call = call
        self.streams = streams
        #: The ids by which the server's routes abort it.
        self.names = {call.record.key, call.request.headers.get("x-dynamo-request-id", call.record.key)}
        self.aborted = False
        self.made = self.steps = 0
        self.plan: list[Sample] = []
        #: Of the process that samples it.
        self.admin = core.admin
        self._core = core
        self._asks = [(ask, index) for ask in asks for index in range(ask.n)]
        self._changed = asyncio.Event()
        self._worked = 0.0
        self._finished = self._landed = False
        self._weights = self._now()

    def _now(self) -> tuple[str, str]:
        return self._core.admin.weights, str(self._core.admin.version)

    def wake(self) -> None:
        """Look again at what may have changed."""
        self._changed.set()

    def abort(self) -> None:
        """End it where it is."""
        self.aborted = True
        self._changed.set()

    def draw(self) -> None:
        """Plan every choice with the weights that are in force, keeping the tokens that were made."""
        weights, label = self._weights = self._now()
        plan: list[Sample] = []
        for number, (ask, index) in enumerate(self._asks):
            before = self.plan[number].first(self.made) if self.plan else None
            ended = before is not None and self.made >= len(self.plan[number].token_ids)
            if before is not None and ended:
                plan.append(self.plan[number])
                continue
            sample = self._core.draw(self.call, ask, index, weights, before)
            parts = () if before is None or not self.made else before.parts
            plan.append(replace(sample, parts=(*parts, Part(self.made, weights, label))))
        self.plan = plan

    def current(self) -> list[Sample]:
        """Every choice as it stands: whole, or up to here and aborted."""
        return [sample if self.made >= len(sample.token_ids) else sample.first(self.made) for sample in self.plan]

    def _longest(self) -> int:
        return max(len(sample.token_ids) for sample in self.plan)

    async def whole(self) -> list[Sample]:
        """Sample to the end, or until it is aborted."""
        config = self._core.config
        busy = config.latency + config.token_latency * self._longest()
        await self._work(busy, lambda: int(min(1.0, self._worked / busy) * self._longest()))
        if not self.aborted:
            self.made = self._longest()
        self._finished = True
        return self.current()

    async def deltas(self) -> AsyncIterator[Delta]:
        """The new tokens of each choice, step by step; the last of a choice is the one that ends it."""
        config, seen = self._core.config, [0] * len(self._asks)
        under_way = set(range(len(self._asks)))
        while under_way:
            interval = self._asks[0][0].stream_interval if self._asks else None
            goal = self.made + (config.chunk_tokens if interval is None else interval if self.made else 1)
            await self._work(config.latency + goal * config.token_latency, lambda: self.made)
            if not self.aborted:
                self.made, self.steps = goal, self.steps + 1
            self.call.record.samples = samples = self.current()
            # Requests that abort or pause come in between.
            await asyncio.sleep(0)
            deltas: list[Delta] = []
            for index in sorted(under_way):
                sample, begin = samples[index] if self.aborted else self.plan[index], seen[index]
                end = seen[index] = min(self.made, len(sample.token_ids))
                last = self.aborted or end == len(sample.token_ids)
                deltas.append(Delta(index, sample, begin, end, last))
            under_way -= {delta.index for delta in deltas if delta.last}
            if not under_way:
                self._finished = True
                self.land()
            for delta in deltas:
                yield delta

    async def _work(self, due: float, made: Callable[[], int]) -> None:
        """Be busy until `due` seconds of work are done or it is aborted. Pauses that keep, and holds, do not count."""
        while not self.aborted:
            self._follow()
            still = self._core.admin.paused == "keep" or self._held()
            if not still and self._worked >= due:
                return
            self._changed.clear()
            began = time.monotonic()
            try:
                async with asyncio.timeout(None if still else due - self._worked):
                    await self._changed.wait()
            except TimeoutError:
                pass
            if not still:
                self._worked += time.monotonic() - began
                self.made = made()

    def _held(self) -> bool:
        allowed = self._core.pace.allowed
        return self.streams and allowed is not None and self.steps >= allowed

    def _follow(self) -> None:
        if self._weights != self._now():
            self.draw()

    def complete(self) -> None:
        """All of it has been sampled, without a pause between the tokens."""
        self.made, self._finished = self._longest(), True
        self.land()

    def land(self) -> None:
        """It is over: recorded as it stands."""
        if self._landed:
            return
        self._landed = True
        if self._finished or self.made:
            self.call.record.samples = self.current()
        self._core.landed(self)
