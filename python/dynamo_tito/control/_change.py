"""One change of what workers hold: paused, loaded, read back, flushed, resumed, and looked at once more."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from dynamo_tito._errors import AdminError, TitoError

from ._canary import Canary
from ._listing import changes
from ._membership import Discovered
from ._operation import Action, Operation, Progress, attempts, never, not_begun
from ._types import PauseMode, Policy, WeightUpdate, check_path
from ._verify import check_sums, confirm, probe
from .admin.base import StaleCacheError

if TYPE_CHECKING:
    from ._membership import Membership
    from .admin.base import AdminApi

Load: TypeAlias = Callable[["AdminApi"], Awaitable[None]]


class Change:
    """What is to be loaded, and how.

    Args:
        what: for messages.
        load: the request that changes one worker.
        read: reads back what came of it.
        expected: the version that workers report afterwards; None where versions say nothing.
        policy: who resumes when only some were changed.
        mode: what becomes of requests in flight.
        flush: whether caches are emptied.
        idempotent: whether ``load`` may be sent again after a transient error.
        before: called when every worker is paused.
        weights: whether the model's weights are replaced: then a change that may have begun is never sent again, and
            its worker is held until it is known what its weights are.
        canary: how new weights are looked at; None not to.
    """

    def __init__(
        self,
        what: str,
        load: Load,
        read: Action,
        expected: str | None,
        policy: Policy,
        mode: PauseMode,
        *,
        flush: bool,
        idempotent: bool,
        before: Callable[[], object] | None = None,
        weights: bool = False,
        canary: Canary | None = None,
    ) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
        check_mode(mode)
        self.what, self.load, self.read, self.expected = what, load, read, expected
        self.policy, self.mode, self.flush, self.before = policy, mode, flush, before
        self.weights, self.canary = weights, canary
        self.repeat = never if not idempotent else not_begun if weights else None


async def apply(operation: Operation, change: Change, membership: Membership, *, pause: bool) -> None:
    """Pause where the operation is not paused yet, load, read back, flush, and choose who is held."""
    if pause:
        await pause_all(operation, change.mode, clear_cache=False)
    if operation.failed or operation.cancelled:
        return
    if change.before is not None:
        called = change.before()
        if inspect.isawaitable(called):
            await called

    await _load(operation, change)
    if change.canary is not None and change.canary.checksum:
        await check_sums(operation, change.canary)
    await _compare_members(operation, membership)
    updated = [each for each in operation.progress if each.updated and (change.flush or each.stale)]
    await operation.phase("flush", _flush, updated)
    operation.hold(change.policy)
    canary = change.canary
    if canary is not None:
        operation.after_resume = [lambda: confirm(operation, canary, change.policy, change.mode)]


async def finish(operation: Operation, change: Change) -> None:
    """Resume, and look once more: a worker that was replaced meanwhile holds other weights."""
    await operation.resume()

    async def read(progress: Progress) -> None:
        progress.version = await progress.admin.weight_version()
        progress.state = states[id(progress)]
        if progress.version != change.expected:
            progress.updated, progress.verified, progress.verified_by = False, False, "label"
            raise AdminError(f"it reports version {progress.version} now: replaced, or updated by another client")
        progress.verified, progress.verified_by = seen[id(progress)]

    if change.expected is None:
        return
    labelled = [each for each in operation.progress if each.verified_by is not None and each.verified is not False]
    states = {id(progress): progress.state for progress in labelled}
    seen = {id(progress): (progress.verified, progress.verified_by) for progress in labelled}
    labelled = [progress for progress in labelled if progress.version == change.expected]
    for progress in labelled:
        progress.version = progress.verified = progress.verified_by = None
        progress.state = "unknown"
    await operation.phase("resume", read, labelled)


async def _compare_members(operation: Operation, membership: Membership) -> None:
    """Fail the members that discovery lists no more, or as someone else; doubt the fleet if others joined."""
    if not isinstance(membership, Discovered):
        return
    try:
        listed = await attempts("verify", operation.limits, membership.workers.look)
    except TitoError as error:
        operation.failure = AdminError(f"the members could not be read again: {error}")
        return
    known = {each.member.worker: each for each in operation.progress if each.member.worker is not None}
    change = changes([*known], listed)
    for old, new in change.restarted:
        if known[old].verified_by is None or known[old].verified is False:
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


async def pause_all(operation: Operation, mode: PauseMode, *, clear_cache: bool) -> None:
    """Pause every worker."""

    async def pause(progress: Progress) -> None:
        progress.touched, progress.state = True, "unknown"
        await progress.admin.pause(mode, clear_cache=clear_cache)
        progress.state = "paused"

    await operation.phase("pause", pause)
    operation.paused = not operation.failed


def check_mode(mode: str) -> None:
    """Raise ValueError unless it is one."""
    if mode not in get_args(PauseMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(PauseMode))}, not {mode!r}")


async def _load(operation: Operation, change: Change) -> None:
    """Update, and read back what came of it."""

    async def load(progress: Progress) -> None:
        progress.updated = None
        progress.reloaded = progress.reloaded or change.weights
        try:
            await change.load(progress.admin)
        except StaleCacheError:
            progress.stale = True  # flushed in the phase for it; its worker is held if that fails
        progress.updated = True
        if change.weights:
            progress.doubtful = False

    async def read(progress: Progress) -> None:
        await change.read(progress)
        if progress.touched and await progress.admin.is_paused() is False:
            progress.state = "running"
            progress.fail("verify", AdminError("it is not paused any more: restarted, or resumed by another client"))

    await operation.phase("update", load, repeat=change.repeat)
    for progress in operation.progress:
        progress.version = None
    await operation.phase("verify", read, tolerant=True)
    operation.settle(change.expected, weights=change.weights)
    await probe(operation)


async def _flush(progress: Progress) -> None:
    await progress.admin.flush_cache()


def weight_update(
    source: str | os.PathLike[str] | int, version: str | None, engine_rpc: str | None, options: Mapping[str, Any]
) -> WeightUpdate:
    """The update that a source means."""
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
