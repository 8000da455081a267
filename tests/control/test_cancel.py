"""Cancellation at every await: an update is whole or not begun, and no worker stays paused."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito.control import FleetLimits, FleetResult, PhaseLimit
from dynamo_tito.simulator import Engine, Fault

from .pool import BOUND, LIMITS, PATH, UPDATE, VERSION, Pool, pool, until

pytestmark = pytest.mark.long

AT_ONCE = 8


class Stepping:
    """Awaits a coroutine, and calls ``at_step`` with the number of each suspension of the calling task."""

    def __init__(self, work: Any, at_step: Callable[[int], None]) -> None:
        self._inner, self._at_step = work.__await__(), at_step
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            waited_for = self._inner.send(None)
            while True:
                self.steps += 1
                self._at_step(self.steps)
                try:
                    value = yield waited_for
                except BaseException as error:  # noqa: BLE001 - passed on unchanged
                    waited_for = self._inner.throw(error)
                else:
                    waited_for = self._inner.send(value)
        except StopIteration as stop:
            return stop.value


def check(workers: Pool, outcome: object) -> None:
    """All workers or none are updated, and none is paused."""
    assert isinstance(outcome, FleetResult | asyncio.CancelledError), repr(outcome)
    assert [engine.admin.paused for engine in workers.engines] == [None] * 4
    versions = {engine.admin.version for engine in workers.engines}
    assert versions in ({"default"}, {VERSION})
    assert len(workers.times(UPDATE)) == (4 if versions == {VERSION} else 0)
    workers.check_order()
    last = workers.fleet.last_result
    if last is not None:
        workers.check_truth(last.workers)


async def settled(task: asyncio.Task[Any]) -> object:
    outcomes: list[object] = await asyncio.gather(task, return_exceptions=True)
    return outcomes[0]


async def in_turns(cases: Sequence[Callable[[], Awaitable[bool]]], reached: list[bool]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(case: Callable[[], Awaitable[bool]]) -> None:
        async with slots:
            reached.append(await case())

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case))


async def at_step(step: int, times: int) -> bool:
    """Cancel when the caller suspends for the ``step``-th time, and ``times`` steps in a row; whether it got there."""
    async with pool() as workers:
        task: asyncio.Task[Any]

        def maybe(number: int) -> None:
            if step <= number < step + times:
                asyncio.get_running_loop().call_soon(task.cancel)

        stepping = Stepping(workers.fleet.update_weights(PATH), maybe)

        async def call() -> Any:
            return await stepping

        task = asyncio.create_task(call())
        check(workers, await settled(task))
        return stepping.steps >= step


async def at_request(number: int, *, late: bool) -> bool:
    """Cancel when the ``number``-th request of the update arrives anywhere, or is about to be answered."""
    async with pool() as workers:
        arrived = 0
        task = asyncio.create_task(workers.fleet.update_weights(PATH))

        def watch(engine: Engine) -> None:
            ask = engine.faults.on_request

            def on_request(path: str, *, samples: bool, streams: bool = False) -> Fault | None:
                nonlocal arrived
                arrived += 1
                if arrived == number and not late:
                    task.cancel()
                elif arrived == number:
                    asyncio.get_running_loop().call_later(0.002, task.cancel)
                    return Fault(kind="delay", seconds=0.004)
                return ask(path, samples=samples, streams=streams)

            engine.faults.on_request = on_request  # type: ignore[method-assign]

        for engine in (workers.registry, *workers.engines):
            watch(engine)
        check(workers, await settled(task))
        return arrived >= number


async def at_tick(tick: int) -> bool:
    """Cancel after so many turns of the event loop."""
    async with pool() as workers:
        task = asyncio.create_task(workers.fleet.update_weights(PATH))
        for _ in range(tick):
            await asyncio.sleep(0)
        running = not task.done()
        task.cancel()
        check(workers, await settled(task))
        return running


def test_cancellation_at_every_await(capsys: pytest.CaptureFixture[str]) -> None:
    reached: list[bool] = []

    async def main() -> None:
        async with pool() as workers:
            stepping = Stepping(workers.fleet.update_weights(PATH), lambda _: None)
            await stepping
        steps, requests = range(1, stepping.steps + 1), range(1, 37)
        makers = [
            *(partial(at_step, step, times) for step in steps for times in (1, 3)),
            *(partial(at_request, number, late=late) for number in requests for late in (False, True)),
            *(partial(at_tick, tick) for tick in range(160)),
        ]
        await in_turns(makers, reached)

    asyncio.run(main())
    assert sum(reached) > 150
    with capsys.disabled():
        sys.stdout.write(f"\ncancellation: {len(reached)} cases, {sum(reached)} before the end\n")


def test_cancellation_while_a_worker_hangs_ends_after_the_deadline() -> None:
    async def main(route: str) -> None:
        async with pool() as workers:
            fault = Fault(kind="stall", phase="request", path=f"/engine/{route}")
            workers.engines[2].inject(*[fault] * 10)
            task = asyncio.create_task(workers.fleet.update_weights(PATH, policy="resume_all"))
            await until(lambda: any(record.path.endswith(route) for record in workers.engines[2].calls))
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < BOUND
            assert [engine.admin.paused for engine in workers.engines] == [None] * 4
            last = workers.fleet.last_result
            assert last is not None
            assert [result.error is None for result in last.workers].count(False) == 1
            workers.check_truth(last.workers)

    async def every() -> None:
        await asyncio.gather(*(main(route) for route in ("pause_generation", UPDATE, "flush_cache")))

    asyncio.run(every())


async def expired(workers: Pool) -> None:
    """An update whose timeout runs out while weights are being loaded."""
    async with asyncio.timeout(None) as bound, asyncio.TaskGroup() as group:
        update = group.create_task(workers.fleet.update_weights(PATH))
        await until(lambda: bool(workers.times(UPDATE)))
        bound.reschedule(0.0)
        await update


def test_a_timeout_around_an_update_is_a_timeout() -> None:
    async def main() -> None:
        async with pool() as workers:
            for engine in workers.engines:
                engine.inject(Fault(kind="delay", seconds=1.0, path=f"/engine/{UPDATE}"))

            with pytest.raises(TimeoutError):
                await expired(workers)
            assert {engine.admin.version for engine in workers.engines} == {VERSION}
            check(workers, asyncio.CancelledError())

    asyncio.run(main())


def test_a_block_that_is_cancelled_or_fails_resumes() -> None:
    async def main() -> None:
        async with pool() as workers:
            for failure in (asyncio.CancelledError, KeyError):
                seen: list[str | None] = []
                with pytest.raises(failure):
                    await failing(workers, failure, seen)
                assert seen == ["keep"] * 4
                assert all(engine.admin.paused is None for engine in workers.engines)

    asyncio.run(main())


async def failing(workers: Pool, failure: type[BaseException], seen: list[str | None]) -> None:
    async with workers.fleet.paused():
        seen += [engine.admin.paused for engine in workers.engines]
        raise failure


def test_a_second_update_waits_for_the_first() -> None:
    async def main() -> None:
        async with pool() as workers:
            await asyncio.gather(workers.fleet.update_weights("/weights/step_6"), workers.fleet.update_weights(PATH))
            check_whole = {engine.admin.version for engine in workers.engines}
            assert check_whole == {VERSION}
            for engine in workers.engines:
                routes = [record.path.rpartition("/")[2] for record in engine.calls if "engine" in record.path]
                changing = [route for route in routes if route in ("pause_generation", UPDATE, "resume_generation")]
                assert changing == ["pause_generation", UPDATE, "resume_generation"] * 2

    asyncio.run(main())


def test_a_second_update_gives_up_at_the_gate() -> None:
    limits = FleetLimits(
        gate=PhaseLimit(0.1, 0.1), pause=LIMITS.pause, update=PhaseLimit(2.0, 2.0), attempts=1, wait=0.01
    )

    async def main() -> None:
        async with pool(limits=limits) as workers:
            workers.engines[0].inject(Fault(kind="delay", seconds=0.6, path=f"/engine/{UPDATE}"))
            first = asyncio.create_task(workers.fleet.update_weights(PATH))
            await until(lambda: bool(workers.times(UPDATE)))
            with pytest.raises(tito.AdminError, match="another operation of the fleet is still under way"):
                await workers.fleet.update_weights("/weights/step_8")
            result = await first
            assert result.failed == ()
            check(workers, result)

    asyncio.run(main())
