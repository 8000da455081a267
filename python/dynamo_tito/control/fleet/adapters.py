"""Adapters on every worker: loaded under a name of their version, or under one name; dropped."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from dynamo_tito._errors import ServerError, TransportError
from dynamo_tito.control.admin.dynamo import DynamoAdmin
from dynamo_tito.control.types import check_path
from dynamo_tito.weights.checkpoint import check_adapter

from .change import Change
from .membership import Discovered, Given
from .operation import never, uninterrupted

if TYPE_CHECKING:
    from dynamo_tito.control.admin.base import AdminApi
    from dynamo_tito.control.types import FleetLimits, FleetResult, PauseMode, Policy

    from .membership import Membership
    from .operation import Operation, Progress

SERVER_FAULT = 500
# SGLang splits a model's name at ":"; Dynamo makes keys of names.
_VERSION = re.compile(r"[A-Za-z0-9._-]+")
_OF_AN_ADAPTER = re.compile(r"adapter_(config|model)|base_model\.model|\blora_[AB]\b")


class AdapterOperations:
    """A fleet's operations on adapters."""

    _membership: Membership
    _limits: FleetLimits

    def _setup_adapters(self) -> None:
        #: Name to the name under which the workers serve it.
        self._served: dict[str, str] = {}
        #: Name to the names of other versions of it that workers may still have.
        self._stale: dict[str, set[str]] = {}

    def _operation(self) -> AbstractAsyncContextManager[Operation]:
        raise NotImplementedError

    async def _carry_out(self, operation: Operation, change: Change) -> FleetResult:
        raise NotImplementedError

    @property
    def adapters(self) -> dict[str, str]:
        """The adapters that this fleet loaded: name to what a request sends as ``model``."""
        return dict(self._served)

    async def load_lora(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        version: str | int | None = None,
        versioned: bool | None = None,
        policy: Policy = "resume_updated",
        mode: PauseMode = "keep",
        flush: bool = True,
        check_files: bool = True,
    ) -> FleetResult:
        """Load an adapter on every worker.

        Under a versioned name, ``name-version``, the adapter before it stays loaded until every worker has the new one
        and generates again; a refused load changes nothing. Under one name the adapter before it is unloaded first, and
        loaded again where the worker refuses the new one.

        Args:
            name: of the adapter.
            path: absolute path of its directory, which the workers can read.
            version: by default the last part of the path.
            versioned: whether the workers get it as ``name-version``. By default they do; Dynamo's workers only where
                ``version`` is given, because its frontends learn of each name through discovery.
            policy: which workers resume when only some were updated.
            mode: what happens to requests in flight. To replace an adapter under one name while it is in use, Dynamo
                and SGLang need ``"wait"`` or ``"abort"``.
            flush: empty the prefix caches. They tell adapters apart by name, so one name needs it.
            check_files: check that the directory, if this machine has it, is an adapter's.

        Returns:
            One result per worker; ``model`` is what a request sends as ``model`` to sample from the adapter.
            ``verified`` says whether the worker lists it, with this path where the worker lists paths.

        Raises:
            AdminError: not every worker holds the adapter, or not every one resumed. Its results say which.
            ValueError: an invalid argument, or not an adapter's directory; nothing was sent.
        """
        where = os.fspath(path)
        check_path(where)
        if check_files:
            await asyncio.to_thread(check_adapter, where)
        by_version = versioned if versioned is not None else version is not None or not self._is_dynamo()
        model = adapter_name(name, version, where) if by_version else name
        if model != self._served.get(name):
            self._stale.setdefault(name, set()).add(model)

        async def load(admin: AdminApi) -> None:
            await admin.load_lora(model, where)

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()
            progress.verified = await _holds(progress, model, where, by_version=by_version)
            progress.verified_by = None if progress.verified is None else "list"

        change = Change(f"loading {model}", load, read, None, policy, mode, flush=flush, idempotent=True)
        async with self._operation() as operation:
            inside = operation.paused
            try:
                await self._carry_out(operation, change)
            finally:
                if all(each.updated is True and each.error is None for each in operation.progress):
                    self._took(name, model)
                    if not inside:
                        await uninterrupted(operation, self._drop_stale(operation))
            return replace(operation.result(), model=model)

    async def unload_lora(self, name: str) -> FleetResult:
        """Drop an adapter on every worker, under the name that :meth:`load_lora` gave it. No worker is paused.

        Args:
            name: as given to :meth:`load_lora`, or a name that the workers list.

        Raises:
            AdminError: not every worker dropped it.
        """
        model = self._served.get(name, name)

        async def drop(progress: Progress) -> None:
            progress.updated = None
            try:
                await progress.admin.unload_lora(model)
            except ServerError as error:
                gone = name in self._served and await _lacks(progress.admin, model)
                if not gone:
                    progress.updated = False if (error.status or SERVER_FAULT) < SERVER_FAULT else None
                    raise
            progress.updated = True

        async with self._operation() as operation:
            inside = operation.paused
            await uninterrupted(operation, operation.phase("update", drop, repeat=never))
            operation.check(f"unloading {model}")
            if self._served.pop(name, None) is not None and not inside:
                await uninterrupted(operation, self._drop_stale(operation))
            return operation.result()

    def _is_dynamo(self) -> bool:
        match self._membership:
            case Discovered(backend=backend):
                return backend == "dynamo"
            case Given(admins=admins):
                return any(isinstance(admin, DynamoAdmin) for admin in admins)
        return False

    def _took(self, name: str, model: str) -> None:
        """Every worker serves the adapter as ``model`` now."""
        before = self._served.get(name)
        self._served[name] = model
        stale = self._stale.setdefault(name, set())
        stale.update({before} if before is not None else ())
        stale.discard(model)

    async def _drop_stale(self, operation: Operation) -> None:
        """Unload other versions of what is served, on workers that generate; the next call repeats what failed."""
        for name in {*self._served, *self._stale}:
            for model in sorted(self._stale.get(name, set()) - {*self._served.values()}):
                if await self._dropped(operation, model):
                    self._stale[name].discard(model)

    async def _dropped(self, operation: Operation, model: str) -> bool:
        gone: list[bool] = []

        async def drop(progress: Progress) -> None:
            # A worker may wait for the adapter's requests, so the wait is bounded.
            async with asyncio.timeout(self._limits.flush.attempt):
                try:
                    await progress.admin.unload_lora(model)
                except ServerError:
                    if not await _lacks(progress.admin, model):
                        raise
            gone.append(True)

        able = [progress for progress in operation.progress if progress.state != "paused"]
        await operation.phase("resume", drop, able, repeat=never, tolerant=True)
        return len(gone) == len(operation.progress)


def adapter_name(name: str, version: str | int | None, path: str) -> str:
    """The versioned name: letters, digits, ``.``, ``_`` and ``-`` are taken by every server.

    Raises:
        ValueError: the version has other characters.
    """
    text = str(version) if version is not None else path.rstrip("/").rpartition("/")[2]
    if not _VERSION.fullmatch(text):
        raise ValueError(f"version {text!r} cannot be part of a model's name: give version= of letters, digits, . _ -")
    return f"{name}-{text}"


async def naming_adapters(path: str | None, update: Callable[[], Awaitable[None]]) -> None:
    """Update; if the worker's refusal names an adapter's files, the error says to use load_lora."""
    try:
        await update()
    except ServerError as error:
        if path is not None and _OF_AN_ADAPTER.search(str(error)):
            error.args = (f"{error}; {path} seems to be an adapter: load it with load_lora(name, path)",)
        raise


async def _lacks(admin: AdminApi, model: str) -> bool:
    """Whether a worker lists its adapters, and not this one."""
    held = await admin.adapters()
    return held is not None and model not in held


async def _holds(progress: Progress, model: str, path: str, *, by_version: bool) -> bool | None:
    """Whether a worker holds the adapter with this path; None where its list has no paths."""
    held = await progress.admin.adapters()
    absent = held is not None and model not in held
    if progress.error is not None:
        lost = isinstance(progress.error, TransportError)
        if not lost and getattr(progress.error, "status", 400) < SERVER_FAULT:
            return False  # the worker refused it, or nothing was sent
        # A load whose answer was lost may still be under way. No request asks for a new name yet.
        return False if absent and (by_version or not lost) else None
    if held is None:
        return None
    return not absent and held[model] in (None, path)
