"""Adapters on every worker: loaded, loaded anew, dropped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._change import Change
from ._types import FleetResult, PauseMode, Policy, check_path

if TYPE_CHECKING:
    from ._operation import Progress
    from .admin.base import AdminApi


class AdapterOperations:
    """The part of a fleet that has to do with adapters."""

    async def _run(self, change: Change) -> FleetResult:
        raise NotImplementedError

    async def load_lora(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        policy: Policy = "resume_updated",
        mode: PauseMode = "keep",
        flush: bool = True,
    ) -> FleetResult:
        """Load an adapter on every worker, or load it anew; arguments, result and errors as for :meth:`update_weights`.

        ``verified`` says whether the worker lists the adapter; Dynamo's workers list none.
        """
        where = os.fspath(path)
        check_path(where)

        async def load(admin: AdminApi) -> None:
            await admin.load_lora(name, where)

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()
            if progress.member.worker is None:
                progress.verified = name in await progress.admin.models()

        change = Change(f"loading {name}", load, read, None, policy, mode, flush=flush, idempotent=True)
        return await self._run(change)

    async def unload_lora(self, name: str, *, mode: PauseMode = "keep") -> FleetResult:
        """Drop an adapter on every worker.

        Raises:
            AdminError: not every worker dropped it.
        """

        async def drop(admin: AdminApi) -> None:
            await admin.unload_lora(name)

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()

        change = Change(f"unloading {name}", drop, read, None, "resume_all", mode, flush=False, idempotent=False)
        return await self._run(change)
