"""One operation on all workers: phases with deadlines, and an account of every worker, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dynamo_tito._errors import (
    AdminError,
    BadRequestError,
    NotFoundError,
    ServerError,
    TitoError,
    TransportError,
    UnauthorizedError,
)

from ._types import FleetLimits, FleetResult, Phase, Policy, VerifiedBy, WorkerResult, WorkerState

if TYPE_CHECKING:
    from ._canary import Evidence
    from ._types import Worker
    from .admin.base import AdminApi

T = TypeVar("T")
Repeat: TypeAlias = Callable[[BaseException], bool]
"""Whether a request that ended in this error is sent again."""

DOUBT = (
    "the update may have begun, so the weights may be partly loaded or gone: the worker is held paused. Update it "
    "again with weights that are whole, or restart it; fleet.resume() resumes it as it is"
)
"""What an operator is told of a worker whose update failed."""

HELD = "it is held paused: update it again, or restart it; fleet.resume() resumes it as it is"
"""What an operator is told of a worker that shows other weights than it was given."""

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
    verified_by: VerifiedBy | None = None
    #: A pause was sent, so a resume must follow.
    touched: bool = False
    #: It stays paused.
    held: bool = False
    #: An update may have begun and did not end well: what its weights are is not known.
    doubtful: bool = False
    #: It has the new weights, and caches of the old ones.
    stale: bool = False
    #: The version that the last update gave it, which its label must be; None if it had none.
    given: str | None = None
    #: An update of its weights was sent in this operation.
    reloaded: bool = False
    #: What it showed of its weights before.
    before: Evidence | None = None
    #: What it shows of the new ones.
    after: Evidence | None = None

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
        self.error, self.held, self.updated, self.verified, self.verified_by = None, self.doubtful, False, None, None
        self.stale, self.before, self.after = False, self.after or self.before, None
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
            verified_by=self.verified_by,
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
        #: What could not be checked.
        self.notes: list[str] = []
        #: To be called once the workers that are not held have resumed.
        self.after_resume: list[Callable[[], Coroutine[Any, Any, None]]] = []
        #: One change at a time within one pause.
        self.turn = asyncio.Lock()

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return self.failure is not None or any(progress.error is not None for progress in self.progress)

    def result(self) -> FleetResult:
        """The account so far."""
        return FleetResult(tuple(progress.result() for progress in self.progress), tuple(self.notes))

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
        repeat: Repeat | None = None,
        tolerant: bool = False,
    ) -> None:
        """Take one phase on all workers at once; errors are noted, none is raised.

        Args:
            phase: which; it has a deadline.
            action: one attempt on one worker.
            among: these workers only.
            repeat: after which errors an attempt is repeated; by default after transient ones.
            tolerant: whether an error is none of the worker's.
        """

        async def one(progress: Progress) -> None:
            if progress.error is None:
                progress.phase = phase
            try:
                await attempts(phase, self.limits, lambda: action(progress), repeat=repeat)
            except Exception as error:  # noqa: BLE001 - whatever one worker's client raises, the others go on
                if not tolerant:
                    progress.fail(phase, error)

        await asyncio.gather(*map(one, self.progress if among is None else among))

    async def resume(self) -> None:
        """Resume every worker that was paused and is not held; then look at what was updated."""

        async def resume(progress: Progress) -> None:
            progress.state = "unknown"
            await progress.admin.resume()
            if await _paused(progress):
                progress.state = "paused"
                raise StillPausedError("it is still paused after it was resumed")
            progress.state = "running"

        await self.phase("resume", resume, [each for each in self.progress if each.touched and not each.held])
        self.paused = False
        while self.after_resume:
            await self.after_resume.pop()()

    def settle(self, expected: str | None, *, weights: bool) -> None:
        """Say of every worker what the update and the labels that were read back come to.

        An update that failed, and certainly did not begin, left the worker as it was. One that may have begun leaves it
        doubtful, unless its label moved to the new version: servers move it when the weights are loaded.

        Args:
            expected: the version; None where versions say nothing.
            weights: whether weights were replaced.
        """
        for progress in self.progress:
            error = progress.error if progress.phase == "update" else None
            if error is not None:
                begun = may_have_begun(error)
                progress.updated, progress.doubtful = None if begun else False, progress.doubtful or (begun and weights)
            if expected is not None and progress.version is not None:
                self._settle_label(progress, expected, failed=error is not None)
            elif progress.verified is False:
                progress.updated = False
                progress.fail("verify", AdminError("it reports no such adapter"))

    @staticmethod
    def _settle_label(progress: Progress, expected: str, *, failed: bool) -> None:
        if progress.version == expected:
            progress.verified_by = "label"
            if failed and progress.updated is None and progress.version_before != expected:
                progress.error, progress.updated, progress.doubtful, progress.phase = None, True, False, "verify"
        elif not failed and progress.updated is not False:
            progress.verified, progress.verified_by, progress.doubtful = False, "label", True
            progress.updated = True if progress.stale else None
            progress.fail("verify", AdminError(f"it reports version {progress.version}, not {expected}"))

    def hold(self, policy: Policy) -> None:
        """Choose who stays paused: nobody, unless an update may have reached some workers and not others."""
        for progress in self.progress:
            progress.held = progress.doubtful
        if not (self.failed and any(progress.updated is not False for progress in self.progress)):
            return
        for progress in self.progress:
            good = progress.updated is True and progress.error is None
            progress.held = policy == "keep_paused" or (policy == "resume_updated" and (progress.doubtful or not good))
            if not progress.held or progress.error is None:
                continue
            begun = progress.phase == "update"
            if isinstance(progress.error, TransportError) or (begun and progress.doubtful):
                progress.state = "unknown"
            if progress.doubtful:
                progress.error = AdminError(f"{progress.error}; {DOUBT if begun else HELD}")


async def look(progress: Progress) -> None:
    """Learn that a worker is alive, and what it holds, before anything is changed."""
    await progress.admin.health()
    progress.version_before = progress.version = await progress.admin.weight_version()
    progress.state_before = progress.state = _STATES[await progress.admin.is_paused()]


async def attempts(
    phase: Phase, limits: FleetLimits, action: Callable[[], Awaitable[T]], *, repeat: Repeat | None = None
) -> T:
    """Try within the phase's deadlines; again after the errors that ``repeat`` names, by default transient ones.

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
        stop=stop_after_attempt(limits.attempts),
        wait=wait_random_exponential(multiplier=limits.wait, max=limits.max_wait),
        retry=retry_if_exception(transient if repeat is None else repeat),
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


def transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again, if sending it twice does no harm."""
    if isinstance(error, ServerError):
        return error.retryable or (error.status or 0) >= 500
    return isinstance(error, TransportError | StillPausedError)


def never(_: BaseException) -> bool:
    """Nothing is sent again."""
    return False


def not_begun(error: BaseException) -> bool:
    """Whether a change that ended in this error certainly did not begin, and may be accepted when it is sent again."""
    if isinstance(error, TransportError):
        return error.phase == "connect"
    return isinstance(error, ServerError) and error.retryable


def may_have_begun(error: BaseException) -> bool:
    """Whether a change that ended in this error may have begun: not where the server refused it, or never had it."""
    if isinstance(error, TransportError):
        return error.phase != "connect"
    if isinstance(error, ServerError) and (error.retryable or error.status == 501):
        return False
    return isinstance(error, TitoError) and not isinstance(error, BadRequestError | NotFoundError | UnauthorizedError)
