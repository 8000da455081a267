"""Four embedded workers behind one discovery, and what holds of them after any operation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dynamo_tito.control import Fleet, FleetLimits, PhaseLimit, WorkerResult
from dynamo_tito.simulator import Engine, Record, serve

#: Short enough to wait for what stalls, long enough that a busy machine is not taken for a stalled worker.
SHORT = PhaseLimit(5.0, 15.0)
LIMITS = FleetLimits(
    gate=SHORT, pause=SHORT, update=SHORT, verify=SHORT, flush=SHORT, resume=SHORT, attempts=2, wait=0.01, max_wait=0.02
)
#: Every phase to its deadline, the last look included, and as much again for a busy machine.
BOUND = 2 * 7 * SHORT.total
VERSION = "step_7"
PATH = f"/weights/{VERSION}"
PAUSE, UPDATE, RESUME = "pause_generation", "update_weights_from_disk", "resume_generation"


@dataclass
class Pool:
    registry: Engine
    engines: list[Engine]
    fleet: Fleet

    def admin_calls(self) -> list[Record]:
        """What reached the workers' system servers, in the order of time."""
        calls = [record for engine in self.engines for record in engine.calls if record.listener == "system"]
        return sorted(calls, key=lambda record: record.received)

    def times(self, route: str) -> list[float]:
        return [record.received for record in self.admin_calls() if record.path == f"/engine/{route}"]

    def check_order(self) -> None:
        """Nothing is updated before all have paused, nothing resumed before all updates are over."""
        pauses, updates, resumes = self.times(PAUSE), self.times(UPDATE), self.times(RESUME)
        if updates:
            assert len({record.path for record in self.admin_calls()}) > 2
            assert max(pauses) < min(updates)
            assert len(pauses) >= len(self.engines)
        if resumes:
            assert max(pauses + updates) < min(resumes)

    def check_truth(self, results: tuple[WorkerResult, ...]) -> None:
        """What is said of a worker that lives is so."""
        for engine, result in self.paired(results):
            if engine.stopped:
                assert (result.version, result.state) == (None, "unknown"), result
                assert result.error is not None
                continue
            version = str(engine.admin.version) if engine.admin.version_declared else None
            assert result.version in (None, version), result
            if result.verified:
                assert version == VERSION, result
            if result.state != "unknown":
                assert (result.state == "paused") == (engine.admin.paused is not None), result

    def paired(self, results: tuple[WorkerResult, ...]) -> list[tuple[Engine, WorkerResult]]:
        by_url = {result.worker.rpartition(" at ")[2]: result for result in results}
        return [(engine, by_url[engine.system_url]) for engine in self.engines if engine.system_url in by_url]


async def until(condition: Callable[[], bool]) -> None:
    """Return when it holds; fail if it does not within seconds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


@asynccontextmanager
async def pool(count: int = 4, *, limits: FleetLimits = LIMITS, **settings: Any) -> AsyncIterator[Pool]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(serve(seed=99, **settings))
        engines = [await stack.enter_async_context(serve(seed=number, **settings)) for number in range(count)]
        registry.members = engines
        fleet = await Fleet.connect(
            registry.url, backend="dynamo", model="tito-model", rl_base_url=registry.rl_url, limits=limits,
            trust_env=False,
        )  # fmt: skip
        await stack.enter_async_context(fleet)
        yield Pool(registry, engines, fleet)
