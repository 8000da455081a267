"""The weights of every worker, looked at: before an update, after it, and at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dynamo_tito._errors import AdminError, ServerError, TitoError

from ._canary import Canary, Evidence, checksums, gather
from ._judge import judge_checksums, judge_memory, judge_scores, whole
from ._operation import HELD, Operation, Progress

if TYPE_CHECKING:
    from ._types import PauseMode, Policy


@dataclass(slots=True)
class Memory:
    """What a fleet knows of one worker from one operation to the next.

    Attributes:
        evidence: what it showed of its weights when they were right last.
        version: the label that the last update gave it.
        doubtful: whether an update may have left it with partly loaded or other weights.
    """

    evidence: Evidence | None = None
    version: str | None = None
    doubtful: bool = False


def recall(operation: Operation, memory: Mapping[str, Memory]) -> None:
    """Begin an operation with what is known of its workers. A doubtful one that runs was restarted, or resumed."""
    for progress in operation.progress:
        known = memory.get(progress.member.name)
        if known is not None:
            progress.before, progress.given = known.evidence, known.version
            progress.doubtful = progress.held = known.doubtful and progress.state != "running"


def remember(operation: Operation, memory: dict[str, Memory]) -> None:
    """Keep what this operation showed, for the workers that it left well, and who is in doubt."""
    for progress in operation.progress:
        known = memory.setdefault(progress.member.name, Memory())
        known.doubtful = progress.doubtful
        if progress.reloaded and progress.updated:
            known.version = progress.version
        if progress.error is None and progress.after is not None:
            known.evidence = progress.after
        elif progress.reloaded and progress.updated is not False:
            known.evidence = None  # its weights changed and were not seen


async def look_before(operation: Operation, canary: Canary, *, score: bool) -> None:
    """Score every worker that runs, and ask for the checksums that are not known. No failure is an error.

    Remembered checksums stand where the scores are those that were remembered with them, to the bit: asking for them
    holds up generation, and another client may have loaded other weights since.
    """
    running = [each for each in operation.progress if each.state != "paused" and not each.doubtful] if score else []
    scored = await gather(operation, canary, running)
    fresh = {key: each for key, each in scored.items() if each.logprobs is not None}
    standing = {id(each) for each in operation.progress if _same(fresh.get(id(each)), each.before)}
    ask = [each for each in operation.progress if id(each) not in standing] if canary.checksum else []
    sums = await checksums(operation, ask)
    for progress in operation.progress:
        key = id(progress)
        known = _sums(progress.before) if key in standing else sums.get(key)
        progress.before = replace(fresh.get(key) or progress.before or Evidence(), checksums=known)


def _same(now: Evidence | None, earlier: Evidence | None) -> bool:
    if now is None or now.logprobs is None:
        return False
    before = now.comparable(earlier)
    return before is not None and np.array_equal(now.logprobs, before, equal_nan=True)


async def check_sums(operation: Operation, canary: Canary) -> None:
    """Compare the checksums of updated workers with those before, and with each other; nothing is resumed yet."""
    updated = {id(each): each for each in operation.progress if each.updated and each.error is None}
    sums = await checksums(operation, updated.values())
    before = {key: _sums(updated[key].before) for key in sums}
    wrong = judge_checksums(sums, before, changed=True if canary.expect_change else None)
    for key, found in sums.items():
        progress = updated[key]
        progress.after = Evidence(checksums=found)
        if key in wrong:
            _refute(progress, "checksum", wrong[key])
            progress.doubtful = True
        elif whole(found) and canary.expect_change and before[key]:
            progress.verified, progress.verified_by = True, "checksum"


async def probe(operation: Operation) -> None:
    """Ask the doubtful whether they live, and whether checksums show that nothing was changed. They stay paused.

    Checksums show it only where the engine itself has answered that it failed: after a lost answer, or one of a proxy,
    the update may still be under way.
    """
    doubtful = [each for each in operation.progress if each.doubtful and each.error is not None]
    known = [each for each in doubtful if each.before is not None and each.before.checksums and _answered(each.error)]
    sums = await checksums(operation, known)
    for progress in known:
        found = sums.get(id(progress))
        if found and whole(found) and found == _sums(progress.before):
            progress.doubtful, progress.updated = False, False

    async def alive(progress: Progress) -> None:
        try:
            await progress.admin.health()
        except TitoError as error:
            progress.error = AdminError(f"{progress.error}; it is not healthy: {error}")

    await operation.phase("verify", alive, [each for each in doubtful if each.doubtful], tolerant=True)


async def confirm(operation: Operation, canary: Canary, policy: Policy, mode: PauseMode) -> None:
    """Score the workers that were updated and have resumed; pause those again whose scores are wrong."""
    chosen = {id(each): each for each in operation.progress
              if each.updated and each.error is None and each.state == "running"}  # fmt: skip
    scored = await gather(operation, canary, chosen.values())
    before = {key: chosen[key].before for key in scored}
    wrong = judge_scores(canary, scored, before)
    several = sum(each.logprobs is not None for each in scored.values()) > 1
    for key, evidence in scored.items():
        progress = chosen[key]
        _note(progress, evidence)
        if key in wrong:
            _refute(progress, "canary", wrong[key])
            progress.doubtful = True
        elif evidence.logprobs is not None and (
            canary.logprobs is not None
            or (evidence.comparable(before[key]) is not None and (canary.expect_change or several))
        ):
            progress.verified, progress.verified_by = True, "canary"
    if policy != "resume_all":
        await _pause_again(operation, [chosen[key] for key in wrong], mode)


async def _pause_again(operation: Operation, among: Iterable[Progress], mode: PauseMode) -> None:
    async def pause(progress: Progress) -> None:
        progress.held, progress.state = True, "unknown"
        await progress.admin.pause(mode)
        progress.state, progress.error = "paused", AdminError(f"{progress.error}; {HELD}")

    await operation.phase("pause", pause, among)


async def verify(operation: Operation, canary: Canary) -> None:
    """Look at every worker, and compare with what is remembered. Nothing is paused or changed."""
    everyone = {id(each): each for each in operation.progress}
    scored = await gather(operation, canary, [each for each in everyone.values() if each.state != "paused"])
    sums = await checksums(operation, everyone.values() if canary.checksum else [])
    known = {key: each.before for key, each in everyone.items()}
    wrong_sums = judge_checksums(sums, {key: _sums(known[key]) for key in sums}, changed=False)
    wrong = judge_memory(canary, scored, known)
    for key, progress in everyone.items():
        evidence = replace(scored.get(key, Evidence()), checksums=sums.get(key))
        progress.after, progress.updated = evidence, False
        if progress.doubtful:
            progress.fail("verify", AdminError(f"an update failed on it or gave it other weights; {HELD}"))
        elif None not in (progress.version, progress.given):
            progress.verified_by = "label"
            if progress.version != progress.given:
                _refute(progress, "label", f"it reports version {progress.version}, not {progress.given}")
        if key in wrong_sums:
            _refute(progress, "checksum", wrong_sums[key])
        elif key in sums and whole(sums[key]) and _sums(known[key]) and progress.error is None:
            progress.verified, progress.verified_by = True, "checksum"
        if key in wrong:
            _refute(progress, "canary", wrong[key])
        elif progress.error is None and evidence.logprobs is not None and (
            canary.logprobs is not None or evidence.comparable(known[key]) is not None
        ):  # fmt: skip
            progress.verified, progress.verified_by = True, "canary"


def _answered(error: Exception | None) -> bool:
    return isinstance(error, ServerError) and error.status not in (502, 504)


def _note(progress: Progress, evidence: Evidence) -> None:
    """Keep the scores beside the checksums."""
    progress.after = replace(evidence, checksums=_sums(progress.after))


def _refute(progress: Progress, by: str, what: str) -> None:
    progress.verified, progress.verified_by = False, by  # type: ignore[assignment]
    progress.fail("verify", AdminError(what))


def _sums(evidence: Evidence | None) -> Mapping[str, str] | None:
    return None if evidence is None else evidence.checksums
