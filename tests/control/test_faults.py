"""Every fault, in every phase, on each of four workers: no worker is lost, and no result is wrong."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

import dynamo_tito as tito
from dynamo_tito.control import Policy
from dynamo_tito.simulator import Fault, FaultKind

from .pool import BOUND, PATH, UPDATE, VERSION, Pool, pool

pytestmark = pytest.mark.long

#: Where a fault can hit an update: (route, requests to that route before).
POINTS: dict[str, tuple[str, int]] = {
    "gate: health": ("liveness_probe", 0),
    "gate: version": ("get_weight_version", 0),
    "pause": ("pause_generation", 0),
    "update": ("update_weights_from_disk", 0),
    "verify": ("get_weight_version", 1),
    "flush": ("flush_cache", 0),
    "resume": ("resume_generation", 0),
    "last look": ("get_weight_version", 2),
}
KINDS: tuple[FaultKind, ...] = ("status", "error_body", "stall", "reset", "die", "restart")
TRANSIENT = ("status", "stall", "reset")
LASTING = ("die", "restart")
REFUSAL = b'{"status":"error","message":"refused on purpose"}'
#: Cases at one time: what stalls waits for deadlines, the others work.
AT_ONCE = dict.fromkeys(KINDS, 4) | {"stall": 32}
COUNTED: list[int] = []


@dataclass(frozen=True)
class Case:
    route: str
    skip: int
    worker: int
    kind: FaultKind
    when: Literal["request", "sampled"]
    always: bool
    policy: Policy

    def faults(self) -> list[Fault]:
        body = REFUSAL if self.kind == "error_body" else None
        fault = Fault(kind=self.kind, phase=self.when, path=f"/engine/{self.route}", skip=self.skip, body=body)
        return [fault] * (30 if self.always else 1)


def cases(point: str) -> Iterator[Case]:
    route, skip = POINTS[point]
    policies: tuple[Policy, ...] = ("resume_updated", "resume_all") if point in ("update", "verify", "flush") else (
        "resume_updated",)  # fmt: skip
    for policy in policies:
        for worker in range(4):
            for kind in KINDS:
                for always in (False, True)[: 1 if kind in LASTING else 2]:
                    yield Case(route, skip, worker, kind, "request", always, policy)
                    yield Case(route, skip, worker, kind, "sampled", always, policy)


async def run(case: Case) -> None:
    async with pool() as workers:
        workers.engines[case.worker].inject(*case.faults())
        started = time.monotonic()
        error: tito.AdminError | None = None
        try:
            results = (await workers.fleet.update_weights(PATH, policy=case.policy)).workers
        except tito.AdminError as caught:
            error, results = caught, caught.results
        assert time.monotonic() - started < BOUND, case
        try:
            judge(case, workers, results, error)
        except AssertionError as wrong:
            raise AssertionError(f"{case}: {error}: {[str(result) for result in results]}") from wrong


def judge(case: Case, workers: Pool, results: tuple[object, ...], error: tito.AdminError | None) -> None:
    outcome = workers.fleet.last_result
    assert outcome is not None
    assert results in (outcome.workers, ())
    workers.check_order()
    workers.check_truth(outcome.workers)
    alive = [engine for engine in workers.engines if not engine.stopped]
    if error is None:
        assert len(alive) == 4
        assert all(engine.admin.version == VERSION and engine.admin.paused is None for engine in alive)
    else:
        assert str(error)
        assert len(outcome.workers) == 4
    doubtful = case.route == UPDATE and case.kind in (*TRANSIENT, "error_body") and case.when == "request"
    if case.route == UPDATE:
        sent = [record for record in workers.engines[case.worker].calls if record.path.endswith(UPDATE)]
        assert len(sent) == 1  # what may have begun is not sent again
    if case.kind in TRANSIENT and not case.always and not doubtful:
        assert error is None  # one transient fault is made good
    if doubtful:
        assert error is not None
        assert "fleet.resume()" in str(error) or case.policy == "resume_all"
    if case.kind == "die":
        assert error is not None
    updated = any(engine.admin.version == VERSION for engine in alive)
    for engine, result in workers.paired(outcome.workers):
        mine = engine is workers.engines[case.worker]
        if engine.stopped or engine.admin.paused is None:
            continue
        # Left paused: this one alone, because it could not be resumed or because the policy says so.
        assert mine
        unresumable = case.route == "resume_generation" and case.always and case.when == "request"
        held = case.policy == "resume_updated" and result.error is not None and updated
        assert unresumable or held
        assert result.state in ("paused", "unknown")


@pytest.mark.parametrize("point", POINTS)
def test_every_fault_on_every_worker(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [*cases(point)]

    async def main() -> None:
        slots = {kind: asyncio.Semaphore(count) for kind, count in AT_ONCE.items()}

        async def one(case: Case) -> None:
            async with slots[case.kind]:
                await run(case)

        async with asyncio.TaskGroup() as group:
            for case in chosen:
                group.create_task(one(case))

    asyncio.run(main())
    COUNTED.append(len(chosen))
    with capsys.disabled():
        sys.stdout.write(f"\n{point}: {len(chosen)} cases, {sum(COUNTED)} so far\n")
