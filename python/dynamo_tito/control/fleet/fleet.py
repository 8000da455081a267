"""The workers of one policy as one: paused together, updated together, resumed together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Unpack

from dynamo_tito._errors import AdminError
from dynamo_tito.control.admin.detect import make_admin
from dynamo_tito.control.discovery import Workers
from dynamo_tito.control.http import HttpOptions, without_credentials
from dynamo_tito.control.types import FleetLimits, FleetResult, PauseMode, Policy, WeightUpdate
from dynamo_tito.weights.checkpoint import check_no_adapter

from .adapters import AdapterOperations, naming_adapters
from .canary import Canary
from .change import Change, apply, check_mode, finish, pause_all, weight_update
from .files import check_against_root, read_visible
from .membership import Discovered, Given
from .operation import Operation, Progress, attempts, look, uninterrupted
from .verify import Memory, look_before, recall, remember, verify
from .watch import Watcher, WatchReport
from .weight_group import WeightGroupOperations

if TYPE_CHECKING:
    from typing import Self

    from dynamo_tito._config import Backend
    from dynamo_tito.control.admin.base import AdminApi

    from .membership import Membership

_HELD: ContextVar[tuple[Fleet, Operation] | None] = ContextVar("dynamo_tito_fleet_held", default=None)


class Fleet(AdapterOperations, WeightGroupOperations):
    """The workers of one policy.

    Operations run one after the other. Each has phases with deadlines (:class:`FleetLimits`): *gate* (wait for the
    turn, read every worker's state), *pause*, *update*, *verify* (read versions and checksums back), *flush*, *resume*,
    and *verify* again (score the canary). Nothing is changed unless every worker passes the gate. Nothing is updated
    unless every worker paused. After a pause every worker is resumed, on errors too, except those that the policy holds
    and those whose weights are in doubt. A cancellation is raised only after that.

    Made by :meth:`connect`, or from your own workers.

    Args:
        admins: the workers.
        limits: deadlines and retries.
        canary: how weights are checked before and after an update, and by :meth:`verify`; None: not checked.
    """

    def __init__(
        self,
        admins: Sequence[AdminApi],
        *,
        limits: FleetLimits = FleetLimits(),  # noqa: B008 - frozen
        canary: Canary | None = Canary(),  # noqa: B008 - frozen
    ) -> None:
        self._setup(Given(admins), limits, canary)

    def _setup(self, membership: Membership, limits: FleetLimits, canary: Canary | None) -> None:
        self._membership = membership
        self._limits = limits
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._update: WeightUpdate | None = None
        self._last: FleetResult | None = None
        self._canary = canary
        self._memory: dict[str, Memory] = {}
        self._setup_adapters()

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
        canary: Canary | None = Canary(),  # noqa: B008 - frozen
        **options: Unpack[HttpOptions],
    ) -> Self:
        """The workers behind a server.

        Args:
            base_url: the OpenAI URL: Dynamo's frontends, or the servers themselves, with or without ``/v1``.
            backend: of the workers; None to ask.
            model: must be served.
            rl_base_url: where Dynamo's discovery listens; see :class:`Workers`.
            admin_base_url: the workers; skips discovery.
            expected_world_size: ranks of all workers together, where they are discovered.
            limits: deadlines and retries.
            canary: how weights are checked before and after an update, and by :meth:`verify`; None: not checked.
            **options: see :class:`HttpOptions`; credentials go to ``base_url`` and ``admin_base_url`` only.

        Raises:
            AdminError: discovery failed, lists no worker or a broken one, or no frontend serves the model.
            ServerError, TransportError: a server could not be asked.
            ValueError: an invalid argument.
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
        fleet._setup(membership, limits, canary)  # noqa: SLF001 - its own
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
        """The result of the last operation, also where the caller was cancelled."""
        return self._last

    async def wait_open(self) -> None:
        """Wait until no operation runs. No worker is paused then."""
        await self._open.wait()

    async def versions(self) -> dict[str, str | None]:
        """The weight version of each worker, by name; None where it cannot be read."""
        operation = Operation(self._limits)
        operation.progress = [Progress(member) for member in await self._membership.members()]

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()

        await operation.phase("verify", read, tolerant=True)
        return {progress.member.name: progress.version for progress in operation.progress}

    @asynccontextmanager
    async def paused(self, *, mode: PauseMode = "keep", clear_cache: bool = False) -> AsyncIterator[None]:
        """``async with fleet.paused():`` no worker generates inside; every one is resumed after it.

        Updates inside the block use its pause; their canary is scored after the block. A worker that an update left in
        doubt stays paused.

        Args:
            mode: what happens to requests in flight.
            clear_cache: empty the prefix caches as well.

        Raises:
            AdminError: a worker could not be paused (the block is not entered) or resumed.
        """
        check_mode(mode)
        if self._enclosing() is not None:
            yield
            return
        async with self._operation() as operation:
            try:
                await uninterrupted(operation, pause_all(operation, mode, clear_cache=clear_cache))
                operation.check("pause")
                yield
                for progress in operation.progress:
                    progress.error = None  # an update inside has raised it
            finally:
                await uninterrupted(operation, operation.resume())
                await uninterrupted(operation, self._drop_stale(operation))
            operation.check("resume")

    async def resume(self) -> FleetResult:
        """Resume every worker, also those that a policy holds or whose weights are in doubt.

        Raises:
            AdminError: not every worker resumed.
        """
        async with self._operation() as operation:
            for progress in operation.progress:
                progress.touched, progress.held, progress.doubtful = True, False, False
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
        check_files: bool | None = None,
        canary: Canary | Literal[False] | None = None,
    ) -> FleetResult:
        """Give every worker new weights, and check that it has them.

        The checkpoint is checked on disk before any worker is paused. An update that may have begun and failed is not
        sent again, and leaves its worker paused, in state ``unknown``. After the update every worker reports its label
        and its checksums; it resumes, scores the canary at once, and is paused again if the scores are wrong. Until
        then other clients can sample from it, except those that wait for :meth:`wait_open`.

        Args:
            source: absolute path of a checkpoint, or the version of weights that come by collective.
            version: their name; by default the last part of the path. It is always sent.
            policy: which workers resume when only some were updated.
            mode: what happens to requests in flight.
            flush: empty the caches: what they hold was computed with the old weights.
            engine_rpc: the engine's method, where the backend lets one choose.
            options: further members of the backend's request.
            before_update: called when every worker is paused, right before the update, for instance to let the trainer
                broadcast. May be a coroutine function.
            check_files: whether the checkpoint's files are checked. None checks them where this process sees the
                directory that the checkpoint is in, or the one that a worker was started from, and otherwise says in
                the result's ``notes`` that they were not. False where workers see other files.
            canary: instead of the fleet's, for instance with the trainer's log-probabilities of the new weights; False
                for none.

        Returns:
            One result per worker, which says how far the weights are ``verified``, and by what.

        Raises:
            AdminError: the checkpoint would not load (no results: no worker was touched), not every worker holds the
                new weights, or not every one resumed. Its results say which.
            ValueError: an invalid argument; nothing was sent.
        """
        update = weight_update(source, version, engine_rpc, options or {})

        if update.path is not None:
            await asyncio.to_thread(check_no_adapter, update.path)

        async def load(admin: AdminApi) -> None:
            await naming_adapters(update.path, lambda: admin.update_weights(update))

        async def read(progress: Progress) -> None:
            progress.version = await progress.admin.weight_version()

        chosen = self._canary if canary is None else canary or None
        checkpoint = await read_visible(update.path, check_files=check_files)
        change = Change(
            f"update to {update.version}", load, read, update.version, policy, mode, flush=flush,
            idempotent=update.path is not None, before=before_update, weights=True, canary=chosen,
        )  # fmt: skip

        async def look(operation: Operation, *, inside: bool) -> None:
            if update.path is not None and check_files is not False:
                admins = [progress.admin for progress in operation.progress]
                operation.notes += await check_against_root(update.path, checkpoint, admins)
            if chosen is not None:
                await look_before(operation, chosen, score=not inside)

        async with self._operation() as operation:
            result = await self._carry_out(operation, change, look)
        self._update = update
        return result

    async def verify(self, canary: Canary | None = None) -> FleetResult:
        """Check every worker's weights; nothing is paused or changed.

        A worker's scores and checksums are compared with those of the last update or verification without an error,
        with the trainer's log-probabilities where the canary has them, and with the other workers'. This finds a worker
        that another client reloaded under the old label. The first call without an update before it compares only
        between workers, and remembers what it reads. Paused workers are not scored.

        Args:
            canary: instead of the fleet's.

        Returns:
            One result per worker; ``verified`` is None where there was nothing to compare with.

        Raises:
            AdminError: a worker holds other weights, or could not be asked. Its results say which.
            ValueError: neither the fleet nor the call has a canary.
        """
        chosen = canary or self._canary
        if chosen is None:
            raise ValueError("the fleet was made with canary=None: give verify() one")
        async with self._operation(closed=False) as operation:
            await verify(operation, chosen)
            operation.check("verification")
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

    @asynccontextmanager
    async def _operation(self, *, closed: bool = True) -> AsyncIterator[Operation]:
        """The gate: the turn, then the state of every worker. Inside ``paused()`` it is that block's operation.

        Args:
            closed: whether samplers wait for it, see :meth:`wait_open`.
        """
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
        if closed:
            self._open.clear()
        token = _HELD.set((self, operation))
        try:
            members = await attempts("gate", self._limits, self._membership.members)
            operation.progress = [Progress(member) for member in members]
            await operation.phase("gate", look)
            operation.check("looking at the workers")
            recall(operation, self._memory)
            yield operation
        finally:
            if operation.progress:
                remember(operation, self._memory)
            operation.over = True
            self._last = operation.result()
            _HELD.reset(token)
            self._open.set()
            self._turn.release()

    def _enclosing(self) -> Operation | None:
        """The operation of the ``paused()`` block that this is called in, by the task itself or one that it started."""
        held = _HELD.get()
        return held[1] if held is not None and held[0] is self and not held[1].over else None

    async def _carry_out(
        self, operation: Operation, change: Change, look: Callable[..., Awaitable[None]] | None = None
    ) -> FleetResult:
        """A change from its pause to its resume; inside ``paused()`` without either. ``look`` is called before it."""
        inside = operation.paused
        if look is not None:
            await look(operation, inside=inside)
        try:
            await uninterrupted(operation, apply(operation, change, self._membership, pause=not inside))
        finally:
            if not inside:
                await uninterrupted(operation, finish(operation, change))
        operation.check(change.what)
        return operation.result()
