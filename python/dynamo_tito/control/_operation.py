"""One operation on all workers: phases with deadlines, and an account of every worker, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dynamo_tito._errors import AdminError, ServerError, TitoError, TransportError

from ._types import FleetLimits, FleetResult, Phase, Policy, WorkerResult, WorkerState

if TYPE_CHECKING:
    from ._types import Worker
    from .admin.base import AdminApi

T = TypeVar("T")
_STATES: dict[bool | None, WorkerState] = {True: "paused", False: "running", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of a fleet, and what discovery says about it, if it was discovered."""

    admin: AdminApi
    worker: Worker | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.admin.url if self.worker is None else f"{self.worker.identity} at {self.admin.url}"


class StillPausedError(TitoError):
    """A worker answered that it resumed, and says that it is paused."""


@dataclass(slots=True)
class Progress:
    """Where one worker stands; see :class:`WorkerResult`."""

    member: Member
    phase: Phase = "gate"
    error: Exception | None = None
    state_before: WorkerState = "unknown"
    state: WorkerState = "unknown"
    updated: bool | None = False
    version_before: str | None = None
    version: str | None = None
    verified: bool | None = None
    #: A pause was sent, so a resume must follow.
    touched: bool = False
    #: The policy leaves it paused.
    held: bool = False

    @property
    def admin(self) -> AdminApi:
        """The worker's administration."""
        return self.member.admin

    def fail(self, phase: Phase, error: Exception) -> None:
        """Note the first error; later ones mostly follow from it."""
        if self.error is None:
            self.phase, self.error = phase, error

    def begin_change(self) -> None:
        """Forget what an earlier change in the same pause came to."""
        self.error, self.held, self.updated, self.verified = None, False, False, None
        self.version_before, self.version = self.version or self.version_before, None

    def result(self) -> WorkerResult:
        """The account."""
        return WorkerResult(
            worker=self.member.name,
            phase=self.phase,
            error=self.error,
            state_before=self.state_before,
            state=self.state,
            updated=self.updated,
            version_before=self.version_before,
            version=self.version,
            verified=self.verified,
        )


Action = Callable[[Progress], Awaitable[None]]


class Operation:
    """The account of all workers, and the phases that change it."""

    def __init__(self, limits: FleetLimits) -> None:
        self.limits = limits
        self.progress: list[Progress] = []
        #: What went wrong with no worker in particular.
        self.failure: Exception | None = None
        #: The caller gave up: nothing new is begun, what was begun is brought to its end.
        self.cancelled = False
        self.paused = False
        self.over = False
        #: One change at a time within one pause.
        self.turn = asyncio.Lock()

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return self.failure is not None or any(progress.error is not None for progress in self.progress)

    def result(self) -> FleetResult:
        """The account so far."""
        return FleetResult(tuple(progress.result() for progress in self.progress))

    def check(self, what: str) -> None:
        """Raise AdminError if anything went wrong.

        Args:
            what: the operation, for the message.
        """
        if not self.failed:
            return
        results = self.result().workers
        failed = [str(result) for result in results if result.error is not None]
        parts = [f"{what} failed on {len(failed)} of {len(results)} workers"] if failed else [f"{what} is in doubt"]
        parts += [str(self.failure)] if self.failure is not None else []
        raise AdminError("; ".join(parts + failed), results=results)

    async def phase(
        self,
        phase: Phase,
        action: Action,
        among: Iterable[Progress] | None = None,
        *,
        idempotent: bool = True,
        tolerant: bool = False,
    ) -> None:
        """Take one phase on all workers at once; errors are noted, none is raised.

        Args:
            phase: which; it has a deadline.
            action: one attempt on one worker.
            among: these workers only.
            idempotent: whether an attempt that failed on the way may be repeated.
            tolerant: whether an error is none of the worker's.
        """

        async def one(progress: Progress) -> None:
            if progress.error is None:
                progress.phase = phase
            try:
                await attempts(phase, self.limits, lambda: action(progress), idempotent=idempotent)
            except Exception as error:  # noqa: BLE001 - whatever one worker's client raises, the others go on
                if not tolerant:
                    progress.fail(phase, error)

        await asyncio.gather(*map(one, self.progress if among is None else among))

    async def resume(self) -> None:
        """Resume every worker that was paused and is not held."""

        async def resume(progress: Progress) -> None:
            progress.state = "unknown"
            await progress.admin.resume()
            if await _paused(progress):
                progress.state = "paused"
                raise StillPausedError("it is still paused after it was resumed")
            progress.state = "running"

        await self.phase("resume", resume, [each for each in self.progress if each.touched and not each.held])
        self.paused = False

    def settle(self, expected: str | None) -> None:
        """Judge the update by the versions that were read back.

        An answer that was lost on the way is made good by the version, if it was another one before.
        """
        for progress in self.progress:
            if expected is not None:
                progress.verified = None if progress.version is None else progress.version == expected
            lost = isinstance(progress.error, TransportError) and progress.phase == "update"
            if progress.verified:
                if lost and progress.version_before not in (None, expected):
                    progress.error, progress.updated, progress.phase = None, True, "verify"
            elif progress.verified is False:
                progress.updated = False
                found = f"version {progress.version}, not {expected}" if expected is not None else "no such adapter"
                progress.fail("verify", AdminError(f"it reports {found}"))
            elif isinstance(progress.error, ServerError) and (progress.error.status or 500) < 500:
                progress.updated = False  # it said so itself

    def hold(self, policy: Policy) -> None:
        """Choose who stays paused: nobody, unless an update may have reached some workers and not others."""
        if not (self.failed and any(progress.updated is not False for progress in self.progress)):
            return
        for progress in self.progress:
            good = progress.updated is True and progress.error is None
            progress.held = policy == "keep_paused" or (policy == "resume_updated" and not good)
            if progress.held and isinstance(progress.error, TransportError):
                progress.state = "unknown"  # it paused, but whether it still lives nobody can tell


async def look(progress: Progress) -> None:
    """Learn that a worker is alive, and what it holds, before anything is changed."""
    await progress.admin.health()
    progress.version_before = progress.version = await progress.admin.weight_version()
    progress.state_before = progress.state = _STATES[await progress.admin.is_paused()]


async def attempts(
    phase: Phase, limits: FleetLimits, action: Callable[[], Awaitable[T]], *, idempotent: bool = True
) -> T:
    """Try within the phase's deadlines; again only what is idempotent and failed on the way, or on the server's side.

    Raises:
        TransportError: no answer in time.
        Exception: what the last attempt raised.
    """
    limit = limits.of(phase)
    last: TitoError | None = None

    async def attempt() -> T:
        nonlocal last
        try:
            async with asyncio.timeout(limit.attempt):
                return await action()
        except TimeoutError:
            last = TransportError(f"no answer to {phase} in {limit.attempt:g} s", phase="headers")
        except TitoError as error:
            last = error
        raise last

    retrying = AsyncRetrying(
        stop=stop_after_attempt(limits.attempts if idempotent else 1),
        wait=wait_random_exponential(multiplier=limits.wait, max=limits.max_wait),
        retry=retry_if_exception(_transient),
        reraise=True,
    )
    try:
        async with asyncio.timeout(limit.total):
            return await retrying(attempt)
    except TimeoutError:
        late = last or TransportError(f"no answer to {phase} in {limit.total:g} s", phase="headers")
    raise late


async def uninterrupted(operation: Operation, work: Coroutine[Any, Any, T]) -> T:
    """Bring ``work`` to its end even if the caller is cancelled, and pass the cancellation on only then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled, operation.cancelled = error, True
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


async def _paused(progress: Progress) -> bool | None:
    try:
        return await progress.admin.is_paused()
    except TitoError:
        return None  # it said that it resumed


def _transient(error: BaseException) -> bool:
    if isinstance(error, ServerError):
        return error.retryable or (error.status or 0) >= 500
    return isinstance(error, TransportError | StillPausedError)
