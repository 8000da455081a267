"""N workers as one: paused together, updated together, and none left behind."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack, get_args

from dynamo_tito._errors import AdminError, TitoError

from ._http import HttpOptions, without_credentials
from ._listing import changes
from ._membership import Discovered, Given
from ._operation import Operation, Progress, attempts, look, uninterrupted
from ._types import FleetLimits, FleetResult, PauseMode, Policy, WeightGroup, WeightUpdate, check_path
from .admin.detect import make_admin
from .discovery import Workers
from .watch import Watcher, WatchReport

if TYPE_CHECKING:
    from typing import Self

    from dynamo_tito._config import Backend

    from ._membership import Membership
    from .admin.base import AdminApi

_HELD: ContextVar[tuple[Fleet, Operation] | None] = ContextVar("dynamo_tito_fleet_held", default=None)

Load = Callable[["AdminApi"], Awaitable[None]]


class Fleet:
    """The workers of one policy.

    Operations take turns. Each has phases, and each phase a deadline (:class:`FleetLimits`): *gate* (wait for the turn,
    look at every worker), *pause*, *update*, *verify* (read versions back), *flush*, *resume*. Nothing is changed
    unless every worker passes the gate; nothing is updated unless every worker paused; and once something was paused,
    whatever happens, every worker is resumed but those that the policy holds. A caller that is cancelled is heard
    only after that.

    Make one with :meth:`connect`, or from workers of one's own.

    Args:
        admins: the workers.
        limits: deadlines and retries.
    """

    def __init__(self, admins: Sequence[AdminApi], *, limits: FleetLimits = FleetLimits()) -> None:  # noqa: B008 - frozen
        self._setup(Given(admins), limits)

    def _setup(self, membership: Membership, limits: FleetLimits) -> None:
        self._membership = membership
        self._limits = limits
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._update: WeightUpdate | None = None
        self._last: FleetResult | None = None

    @classmethod
    async def connect(
        cls,
        base_url: str | Sequence[str],
        *,
        backend: Backend | None = None,
        model: str | None = None,
        rl_base_url: str | Sequence[str] | None = None,
        admin_base_url: str | Sequence[str] | None = None,
        expected_world_size: int | None = None,
        limits: FleetLimits = FleetLimits(),  # noqa: B008 - frozen
        **options: Unpack[HttpOptions],
    ) -> Self:
        """The workers behind a server.

        Args:
            base_url: the OpenAI URL: Dynamo's frontends, or the servers themselves, with or without ``/v1``.
            backend: whose servers the workers are; None to ask.
            model: must be served.
            rl_base_url: where Dynamo's discovery listens; see :class:`Workers`.
            admin_base_url: the workers; skips discovery.
            expected_world_size: ranks of all workers together, where they are discovered.
            limits: deadlines and retries.
            **options: see :class:`HttpOptions`; credentials go to ``base_url`` and ``admin_base_url`` only.

        Raises:
            AdminError: discovery failed, lists no worker or a broken one, or nobody serves the model.
            ServerError, TransportError: a server could not be asked.
            ValueError: an argument that makes no sense.
        """
        urls = [base_url] if isinstance(base_url, str) else [*base_url]
        if not urls:
            raise ValueError("base_url must name at least one server")
        given = [admin_base_url] if isinstance(admin_base_url, str) else [*(admin_base_url or ())]
        chosen = backend
        if chosen is None:
            probe = await make_admin((given or urls)[0], None, **options)
            chosen = probe.backend
            await probe.aclose()
        membership: Membership
        discovers = not given and (chosen == "dynamo" or rl_base_url is not None)
        frontends = Workers(
            urls, rl_base_url=rl_base_url, model=model, expected_world_size=expected_world_size, **options
        )
        if discovers:
            membership = Discovered(frontends, chosen, without_credentials(options))
        else:
            admins = [await make_admin(url, chosen, openai_url=urls[0], **options) for url in given or urls]
            membership = Given(admins)
        fleet = cls.__new__(cls)
        fleet._setup(membership, limits)  # noqa: SLF001 - its own
        try:
            await membership.members()
            await frontends.check_model()
        except BaseException:
            await fleet.aclose()
            raise
        finally:
            if not discovers:
                await frontends.aclose()
        return fleet

    async def aclose(self) -> None:
        """Close every connection."""
        await self._membership.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def version(self) -> str | None:
        """The version of the last update that succeeded; None before the first."""
        return None if self._update is None else self._update.version

    @property
    def last_result(self) -> FleetResult | None:
        """What became of the last operation, also where the caller was cancelled."""
        return self._last

    async def wait_open(self) -> None:
        """Wait until no operation is under way: who samples through this gate meets no paused worker."""
        await self._open.wait()

    async def versions(self) -> dict[str, str | None]:
        """The weight version of each worker, by name; None where it cannot be read."""
        operation = Operation(self._limits)
        operation.progress = [Progress(member) for member in await self._membership.members()]

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()

        await operation.phase("verify", read, tolerant=True)
        return {progress.member.name: progress.version for progress in operation.progress}

    # --- operations ---

    @asynccontextmanager
    async def paused(self, *, mode: PauseMode = "keep", clear_cache: bool = False) -> AsyncIterator[None]:
        """``async with fleet.paused():`` no worker generates inside; every one is resumed after it.

        Updates inside the block use its pause.

        Args:
            mode: what becomes of requests in flight.
            clear_cache: empty the prefix caches as well.

        Raises:
            AdminError: a worker could not be paused (the block is not entered) or resumed.
        """
        _check_mode(mode)
        if self._enclosing() is not None:
            yield
            return
        async with self._operation() as operation:
            try:
                await uninterrupted(operation, _pause(operation, mode, clear_cache=clear_cache))
                operation.check("pause")
                yield
                for progress in operation.progress:
                    progress.error = None  # an update inside has raised it
            finally:
                await uninterrupted(operation, operation.resume())
            operation.check("resume")

    async def resume(self) -> FleetResult:
        """Resume every worker, those too that a policy held.

        Raises:
            AdminError: not every worker resumed.
        """
        async with self._operation() as operation:
            for progress in operation.progress:
                progress.touched, progress.held = True, False
            await uninterrupted(operation, operation.resume())
            operation.check("resume")
            return operation.result()

    async def update_weights(
        self,
        source: str | os.PathLike[str] | int,
        *,
        version: str | None = None,
        policy: Policy = "resume_updated",
        mode: PauseMode = "keep",
        flush: bool = True,
        engine_rpc: str | None = None,
        options: Mapping[str, Any] | None = None,
        before_update: Callable[[], object] | None = None,
    ) -> FleetResult:
        """Give every worker new weights.

        Args:
            source: absolute path of a checkpoint, or the version of weights that come by collective.
            version: their name; by default the last part of the path. It is always sent.
            policy: who resumes when only some were updated.
            mode: what becomes of requests in flight.
            flush: empty the prefix caches: what they hold was computed with the old weights.
            engine_rpc: the engine's method, where the backend lets one choose.
            options: further members of the backend's request.
            before_update: called when every worker is paused, right before the update: the place to tell the trainer
                to broadcast. May be a coroutine function.

        Returns:
            One result per worker; versions that cannot be read back are None there and ``unverified``.

        Raises:
            AdminError: not every worker holds the new weights, or not every one resumed. Its results say which.
            ValueError: an argument that makes no sense; nothing was sent.
        """
        update = _weight_update(source, version, engine_rpc, options or {})

        async def load(admin: AdminApi) -> None:
            await admin.update_weights(update)

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()

        change = _Change(f"update to {update.version}", load, read, update.version, policy, mode, flush=flush,
                         idempotent=update.path is not None, before=before_update)  # fmt: skip
        result = await self._run(change)
        self._update = update
        return result

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

        change = _Change(f"loading {name}", load, read, None, policy, mode, flush=flush, idempotent=True)
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

        change = _Change(f"unloading {name}", drop, read, None, "resume_all", mode, flush=False, idempotent=False)
        return await self._run(change)

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
                await operation.phase("update", join, idempotent=False)
                if operation.failed:
                    joined = [progress for progress in operation.progress if progress.updated]
                    await operation.phase("update", _leave, joined, idempotent=False, tolerant=True)

            await uninterrupted(operation, everyone())
            operation.check("joining the weight group")
            return operation.result()

    async def destroy_weight_group(self) -> FleetResult:
        """Let every worker leave the process group.

        Raises:
            AdminError: not every worker left.
        """
        async with self._operation() as operation:
            await uninterrupted(operation, operation.phase("update", _leave, idempotent=False))
            operation.check("leaving the weight group")
            return operation.result()

    async def watch(self, interval: float = 5.0) -> AsyncIterator[WatchReport]:
        """Follow discovery: ``async for report in fleet.watch():``, one report whenever something changed.

        A worker that joins is admitted only when it is healthy, serves the model and holds the current version; weights
        that came from disk are loaded for it.

        Args:
            interval: seconds between two looks.

        Raises:
            ValueError: the workers were given, not discovered.
        """
        if not isinstance(self._membership, Discovered):
            raise ValueError("there is nothing to watch: the workers were given, not discovered")  # noqa: TRY004 - no type is wrong
        watcher = Watcher(self._membership, self._limits, self._turn, lambda: self._update)
        while True:
            report = await watcher.look()
            if report is not None:
                yield report
            await asyncio.sleep(interval)

    # --- how ---

    @asynccontextmanager
    async def _operation(self) -> AsyncIterator[Operation]:
        """The gate: the turn, then a look at every worker. Inside ``paused()`` it is that block's operation."""
        enclosing = self._enclosing()
        if enclosing is not None:
            async with enclosing.turn:
                for progress in enclosing.progress:
                    progress.begin_change()
                yield enclosing
            return
        operation = Operation(self._limits)
        try:
            async with asyncio.timeout(self._limits.gate.total):
                await self._turn.acquire()
        except TimeoutError:
            raise AdminError("another operation of the fleet is still under way; nothing was changed") from None
        self._open.clear()
        token = _HELD.set((self, operation))
        try:
            members = await attempts("gate", self._limits, self._membership.members)
            operation.progress = [Progress(member) for member in members]
            await operation.phase("gate", look)
            operation.check("looking at the workers")
            yield operation
        finally:
            operation.over = True
            self._last = operation.result()
            _HELD.reset(token)
            self._open.set()
            self._turn.release()

    def _enclosing(self) -> Operation | None:
        """The operation of the ``paused()`` block that this is called in, by the task itself or one that it started."""
        held = _HELD.get()
        return held[1] if held is not None and held[0] is self and not held[1].over else None

    async def _run(self, change: _Change) -> FleetResult:
        async with self._operation() as operation:
            inside = operation.paused
            try:
                await uninterrupted(operation, self._apply(operation, change, pause=not inside))
            finally:
                if not inside:
                    await uninterrupted(operation, self._finish(operation, change))
            operation.check(change.what)
            return operation.result()

    async def _apply(self, operation: Operation, change: _Change, *, pause: bool) -> None:
        if pause:
            await _pause(operation, change.mode, clear_cache=False)
        if operation.failed or operation.cancelled:
            return
        if change.before is not None:
            called = change.before()
            if inspect.isawaitable(called):
                await called

        await _load(operation, change)
        await self._compare_members(operation)
        if change.flush:
            updated = [progress for progress in operation.progress if progress.updated]
            await operation.phase("flush", _flush, updated)
        operation.hold(change.policy)

    async def _finish(self, operation: Operation, change: _Change) -> None:
        """Resume, and look once more: a worker that was replaced meanwhile holds other weights."""
        await operation.resume()

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()
            progress.state = states[id(progress)]
            progress.verified = None if progress.version is None else progress.version == change.expected
            if not progress.verified:
                progress.updated = False
                raise AdminError(f"it reports version {progress.version} now: replaced, or updated by someone else")

        if change.expected is None:
            return
        verified = [progress for progress in operation.progress if progress.verified]
        states = {id(progress): progress.state for progress in verified}
        for progress in verified:
            progress.version = progress.verified = None
            progress.state = "unknown"
        await operation.phase("resume", read, verified)

    async def _compare_members(self, operation: Operation) -> None:
        """Fail the members that discovery lists no more, or as someone else; doubt the fleet if others joined."""
        if not isinstance(self._membership, Discovered):
            return
        try:
            listed = await attempts("verify", self._limits, self._membership.workers.look)
        except TitoError as error:
            operation.failure = AdminError(f"the members could not be read again: {error}")
            return
        known = {each.member.worker: each for each in operation.progress if each.member.worker is not None}
        change = changes([*known], listed)
        for old, new in change.restarted:
            if not known[old].verified:
                known[old].state, known[old].updated = "unknown", False
                known[old].fail("verify", AdminError(f"it was replaced by {new.identity}"))
        for worker in change.left:
            known[worker].state = "unknown"
            known[worker].fail("verify", AdminError("discovery lists it no more"))
        for worker in change.joined:
            operation.failure = AdminError(f"{worker.identity} joined in between and was not updated")
        broken = {worker.identity: worker.problem for worker in listed if worker.problem is not None}
        for worker, progress in known.items():
            if worker.identity in broken:
                progress.state = "unknown"
                progress.fail("verify", AdminError(f"discovery says: {broken[worker.identity]}"))


class _Change:
    """What is to be loaded, and how."""

    def __init__(
        self,
        what: str,
        load: Load,
        read: Callable[[Progress], Awaitable[None]],
        expected: str | None,
        policy: Policy,
        mode: PauseMode,
        *,
        flush: bool,
        idempotent: bool,
        before: Callable[[], object] | None = None,
    ) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
        _check_mode(mode)
        self.what, self.load, self.read, self.expected = what, load, read, expected
        self.policy, self.mode, self.flush, self.idempotent, self.before = policy, mode, flush, idempotent, before


async def _pause(operation: Operation, mode: PauseMode, *, clear_cache: bool) -> None:
    async def pause(progress: Progress) -> None:
        progress.touched, progress.state = True, "unknown"
        await progress.admin.pause(mode, clear_cache=clear_cache)
        progress.state = "paused"

    await operation.phase("pause", pause)
    operation.paused = not operation.failed


def _check_mode(mode: str) -> None:
    if mode not in get_args(PauseMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(PauseMode))}, not {mode!r}")


async def _load(operation: Operation, change: _Change) -> None:
    """Update, and read back what came of it."""

    async def load(progress: Progress) -> None:
        progress.updated = None
        await change.load(progress.admin)
        progress.updated = True

    async def read(progress: Progress) -> None:
        await change.read(progress)
        if progress.touched and await progress.admin.is_paused() is False:
            progress.state = "running"
            progress.fail("verify", AdminError("it is not paused any more: restarted, or resumed by someone else"))

    await operation.phase("update", load, idempotent=change.idempotent)
    for progress in operation.progress:
        progress.version = None
    await operation.phase("verify", read, tolerant=True)
    operation.settle(change.expected)


async def _flush(progress: Progress) -> None:
    await progress.admin.flush_cache()


async def _leave(progress: Progress) -> None:
    await progress.admin.destroy_weight_group()


def _weight_update(
    source: str | os.PathLike[str] | int, version: str | None, engine_rpc: str | None, options: Mapping[str, Any]
) -> WeightUpdate:
    if isinstance(source, bool):
        raise TypeError("source must be a path or a version")
    if isinstance(source, int):
        if version is not None:
            raise ValueError("source is a version already")
        return WeightUpdate(str(source), None, engine_rpc, options)
    text = os.fspath(source)
    if isinstance(source, os.PathLike) or "/" in text:
        check_path(text)
        return WeightUpdate(version or text.rstrip("/").rpartition("/")[2], text, engine_rpc, options)
    if version is not None:
        raise ValueError(f"source {text!r} is a version already; a checkpoint needs an absolute path")
    return WeightUpdate(text, None, engine_rpc, options)
