"""Who belongs to a fleet: given once, or followed through discovery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dynamo_tito._errors import AdminError

from ._http import HttpOptions
from ._operation import Member
from .admin.detect import make_admin
from .admin.dynamo import DynamoAdmin

if TYPE_CHECKING:
    from dynamo_tito._config import Backend

    from ._types import Worker
    from .admin.base import AdminApi
    from .discovery import Workers


class Membership(Protocol):
    """Where a fleet's members come from."""

    async def members(self) -> list[Member]:
        """The members now; AdminError unless all of them can be administered."""

    async def aclose(self) -> None:
        """Close every connection."""


class Given:
    """Members that never change."""

    def __init__(self, admins: Sequence[AdminApi]) -> None:
        if not admins:
            raise ValueError("a fleet needs at least one worker")
        self._members = [Member(admin) for admin in admins]

    @property
    def admins(self) -> list[AdminApi]:
        """The workers."""
        return [member.admin for member in self._members]

    async def members(self) -> list[Member]:
        """Those that were given."""
        return self._members

    async def aclose(self) -> None:
        """Close every connection."""
        for member in self._members:
            await member.admin.aclose()


class Discovered:
    """Members as discovery lists them; a worker that stays keeps its connections."""

    def __init__(self, workers: Workers, backend: Backend, options: HttpOptions) -> None:
        self.workers = workers
        self.backend, self._options = backend, options
        self._known: dict[Worker, Member] = {}

    async def members(self) -> list[Member]:
        """Ask discovery, which fails closed."""
        await self.workers.refresh()
        members = [await self.member(worker) for worker in self.workers]
        for worker in [*self._known]:
            if worker not in set(self.workers):
                await self._known.pop(worker).admin.aclose()
        return members

    async def member(self, worker: Worker) -> Member:
        """The member that a listed worker is."""
        if worker not in self._known:
            self._known[worker] = Member(await self._admin(worker), worker)
        return self._known[worker]

    async def aclose(self) -> None:
        """Close every connection."""
        for member in self._known.values():
            await member.admin.aclose()
        await self.workers.aclose()

    async def _admin(self, worker: Worker) -> AdminApi:
        url = worker.system_url if self.backend == "dynamo" else worker.admin_base_url
        if url is None:
            which = "system_url" if self.backend == "dynamo" else "admin_base_url"
            raise AdminError(f"worker {worker.identity} has no {which}")
        if self.backend == "dynamo":
            return DynamoAdmin(url, openai_url=self.workers.openai_url, world_size=worker.world_size, **self._options)
        return await make_admin(url, self.backend, **self._options)
