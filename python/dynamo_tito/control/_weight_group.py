"""The process group that brings weights from the trainer: every worker joins it, or none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from ._operation import never, uninterrupted
from ._types import FleetResult, WeightGroup

if TYPE_CHECKING:
    from ._operation import Operation, Progress


class WeightGroupOperations:
    """The part of a fleet that has to do with the group."""

    def _operation(self) -> AbstractAsyncContextManager[Operation]:
        raise NotImplementedError

    async def init_weight_group(
        self,
        host: str,
        port: int,
        world_size: int,
        *,
        trainer_ranks: int = 1,
        timeout: float = 300.0,  # noqa: ASYNC109 - how long workers wait for each other
        name: str = "weights",
        options: Mapping[str, Any] | None = None,
    ) -> FleetResult:
        """Join every worker to the process group that brings weights, each with ranks of its own.

        Ranks are given out in the order of identities: the trainer's first, then each worker's ``world_size``. It is
        tried once; if a worker fails, those that joined are told to leave.

        Args:
            host: where the trainer's first rank listens.
            port: likewise.
            world_size: ranks of the group, the trainer's included.
            trainer_ranks: ranks of the trainer.
            timeout: seconds that a worker waits for the others.
            name: the group's name, where a backend has names.
            options: further members of the backend's request.

        Raises:
            AdminError: not every worker joined.
            ValueError: the ranks do not add up, or a worker does not say how many it has; nothing was sent.
        """
        async with self._operation() as operation:
            offsets: dict[int, int] = {}
            rank = trainer_ranks
            for progress in operation.progress:
                offsets[id(progress)] = rank
                worker = progress.member.worker
                own = worker.world_size if worker is not None else None
                own = await progress.admin.world_size() if own is None else own
                if own is None:
                    raise ValueError(f"{progress.member.name} does not say how many ranks it has")
                rank += own
            if rank != world_size:
                raise ValueError(f"trainer and workers have {rank} ranks, world_size is {world_size}")

            async def join(progress: Progress) -> None:
                group = WeightGroup(host, port, world_size, offsets[id(progress)], trainer_ranks, timeout, name,
                                    options or {})  # fmt: skip
                await progress.admin.init_weight_group(group)
                progress.updated = True

            async def everyone() -> None:
                await operation.phase("update", join, repeat=never)
                if operation.failed:
                    joined = [progress for progress in operation.progress if progress.updated]
                    await operation.phase("update", _leave, joined, repeat=never, tolerant=True)

            await uninterrupted(operation, everyone())
            operation.check("joining the weight group")
            return operation.result()

    async def destroy_weight_group(self) -> FleetResult:
        """Let every worker leave the process group.

        Raises:
            AdminError: not every worker left.
        """
        async with self._operation() as operation:
            await uninterrupted(operation, operation.phase("update", _leave, repeat=never))
            operation.check("leaving the weight group")
            return operation.result()


async def _leave(progress: Progress) -> None:
    await progress.admin.destroy_weight_group()
