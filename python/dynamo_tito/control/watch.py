"""Following an elastic pool: who may serve, who must wait, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamo_tito._errors import AdminError, TitoError

from ._operation import DOUBT, Action, Operation, Progress, Repeat, look, may_have_begun, not_begun, uninterrupted
from ._types import FleetLimits, Identity, Phase, WeightUpdate

if TYPE_CHECKING:
    from ._membership import Discovered
    from ._types import Worker


@dataclass(frozen=True, slots=True)
class WatchReport:
    """The pool after a change.

    Attributes:
        admitted: workers that are healthy, serve the model and hold the current version.
        joined: those that were admitted just now.
        left: those that are admitted no more: gone, broken or replaced.
        waiting: (worker, why it is not admitted), or (None, why discovery could not be read).
    """

    admitted: tuple[Worker, ...]
    joined: tuple[Worker, ...]
    left: tuple[Worker, ...]
    waiting: tuple[tuple[Worker | None, str], ...]


class Watcher:
    """Looks at a pool again and again."""

    def __init__(
        self, source: Discovered, limits: FleetLimits, turn: asyncio.Lock, current: Callable[[], WeightUpdate | None]
    ) -> None:
        self._source, self._limits, self._turn, self._current = source, limits, turn, current
        self._admitted: dict[Identity, Worker] = {}
        self._waiting: tuple[tuple[Worker | None, str], ...] = ()
        # Workers that an update left in doubt, with that update and what is said of them: it is not sent again.
        self._doubtful: dict[Identity, tuple[WeightUpdate, str]] = {}

    async def look(self) -> WatchReport | None:
        """Look once; None if nothing changed."""
        before = dict(self._admitted)
        waiting: list[tuple[Worker | None, str]] = []
        try:
            listed = await self._source.workers.look()
            await self._source.workers.check_model()
        except TitoError as error:
            # Who was admitted stays: nothing is known against them.
            waiting.append((None, str(error)))
        else:
            usable = {worker.identity: worker for worker in listed if worker.problem is None}
            self._admitted = {identity: worker for identity, worker in before.items() if usable.get(identity) == worker}
            for worker in listed:
                if worker.identity not in self._admitted:
                    reason = worker.problem or await self._admit(worker)
                    if reason is None:
                        self._admitted[worker.identity] = worker
                    else:
                        waiting.append((worker, reason))
        now, self._waiting = tuple(waiting), self._waiting
        joined = tuple(worker for identity, worker in self._admitted.items() if identity not in before)
        left = tuple(worker for identity, worker in before.items() if identity not in self._admitted)
        if not joined and not left and now == self._waiting:
            return None
        self._waiting = now
        return WatchReport(tuple(self._admitted.values()), joined, left, now)

    async def _admit(self, worker: Worker) -> str | None:
        """Why it cannot be admitted; None if it can."""
        try:
            member = await self._source.member(worker)
        except TitoError as error:
            return str(error)
        operation = Operation(self._limits)
        progress = Progress(member)
        operation.progress = [progress]
        async with self._turn:  # an update of the fleet takes it along
            await operation.phase("gate", look)
            update = self._current()
            if progress.error is None and update is not None and progress.version != update.version:
                if update.path is None:
                    return f"it holds version {progress.version}, not {update.version}, which came by collective"
                tried, said = self._doubtful.get(worker.identity, (None, ""))
                if tried is update:
                    return said
                await uninterrupted(operation, _bring(operation, progress, update))
                if progress.held:
                    self._doubtful[worker.identity] = update, str(progress.error)
        return None if progress.error is None else str(progress.error)


async def _bring(operation: Operation, progress: Progress, update: WeightUpdate) -> None:
    """Load the current weights on one worker."""

    async def pause(_: Progress) -> None:
        progress.touched = True
        await progress.admin.pause()

    async def load(_: Progress) -> None:
        await progress.admin.update_weights(update)

    async def flush(_: Progress) -> None:
        await progress.admin.flush_cache()

    async def read(_: Progress) -> None:
        progress.version = await progress.admin.weight_version()
        if progress.version not in (None, update.version):
            raise AdminError(f"it holds version {progress.version}, not {update.version}")

    steps: tuple[tuple[Phase, Action, Repeat | None], ...] = (
        ("pause", pause, None), ("update", load, not_begun), ("flush", flush, None), ("verify", read, None),
    )  # fmt: skip
    for phase, action, repeat in steps:
        if not operation.failed:
            await operation.phase(phase, action, repeat=repeat)
    error = progress.error
    if error is not None and progress.phase == "update" and may_have_begun(error):
        progress.held, progress.error = True, AdminError(f"{error}; {DOUBT}")
    await operation.resume()
