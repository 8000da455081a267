"""What scores and checksums say of weights: compared with earlier ones, with the trainer's, with other workers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dynamo_tito._errors import DecodeError, ServerError, TitoError, TransportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._canary import Canary, Evidence

    Logprobs = NDArray[np.float64]

_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of no bytes: vLLM on CPU reports it for weights that it has repacked, whose change it cannot see."""

_UNCHANGED = (
    "are what they were before the update: it holds the old weights, or the new ones are the same, which "
    "expect_change=False allows"
)


def distance(one: Logprobs, other: Logprobs) -> float:
    """Mean of ``|one - other|`` over the positions that both have; infinite where one of them has none."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    known = np.isfinite(one)
    return float(np.mean(np.abs(one[known] - other[known]))) if known.any() else float("inf")


def judge_scores(
    canary: Canary, scored: Mapping[int, Evidence], before: Mapping[int, Evidence | None]
) -> dict[int, str]:
    """What is wrong with each worker's scores after an update; nothing for those with which nothing is."""
    wrong: dict[int, str] = {}
    for key, evidence in scored.items():
        earlier = before.get(key)
        if evidence.logprobs is None:
            scored_before = earlier is not None and earlier.logprobs is not None
            if scored_before and evidence.error is not None and _says_something(evidence.error):
                wrong[key] = f"the canary could be scored before and not after: {evidence.error}"
            continue
        same = evidence.comparable(earlier)
        if (said := _off_trainer(canary, evidence.logprobs)) is not None:
            wrong[key] = said
        elif canary.expect_change and same is not None and np.array_equal(evidence.logprobs, same, equal_nan=True):
            wrong[key] = f"its scores of the canary {_UNCHANGED}"
    return wrong | _apart(canary, scored, wrong)


def judge_memory(
    canary: Canary, scored: Mapping[int, Evidence], known: Mapping[int, Evidence | None]
) -> dict[int, str]:
    """What is wrong with each worker's scores when nothing was updated: they must be those of the last time."""
    wrong: dict[int, str] = {}
    for key, evidence in scored.items():
        if evidence.logprobs is None:
            continue
        earlier = evidence.comparable(known.get(key))
        off = 0.0 if earlier is None else distance(evidence.logprobs, earlier)
        if off > canary.tolerance:
            wrong[key] = (
                f"its scores of the canary are {off:.3g} nats from those of the last verification, at most "
                f"{canary.tolerance:g}: it was reloaded or replaced since"
            )
        elif (said := _off_trainer(canary, evidence.logprobs)) is not None:
            wrong[key] = said
    return wrong | _apart(canary, scored, wrong)


def _off_trainer(canary: Canary, scores: Logprobs) -> str | None:
    if canary.logprobs is None:
        return None
    off = distance(scores, np.asarray(canary.logprobs, np.float64))
    if off <= canary.tolerance:
        return None
    return f"its scores of the canary are {off:.3g} nats from the trainer's, at most {canary.tolerance:g}"


def _apart(canary: Canary, scored: Mapping[int, Evidence], wrong: Mapping[int, str]) -> dict[int, str]:
    """Workers that are too far from the others: from the median of all, or, of two, both."""
    have = {key: each.logprobs for key, each in scored.items() if each.logprobs is not None and key not in wrong}
    if len(have) < 2:
        return {}
    values = [*have.values()]
    if any(each.shape != values[0].shape for each in values):
        return dict.fromkeys(have, "the workers score different numbers of tokens of the canary")
    far = {key: max(distance(one, other) for other in values) for key, one in have.items()}
    if max(far.values()) <= canary.tolerance:
        return {}
    median = np.median(np.stack(values), axis=0)
    blamed = [key for key, one in have.items() if distance(one, median) > canary.tolerance] if len(have) > 2 else []
    return {
        key: f"the workers disagree on the canary: {far[key]:.3g} nats apart, at most {canary.tolerance:g}"
        for key in blamed or have
    }


def judge_checksums(
    now: Mapping[int, Mapping[str, str]], before: Mapping[int, Mapping[str, str] | None], *, changed: bool | None
) -> dict[int, str]:
    """What is wrong with each worker's checksums.

    Args:
        now: what each reports.
        before: what each reported earlier.
        changed: whether some must differ from ``before``; False where none may, None where it does not matter.
    """
    wrong: dict[int, str] = {}
    for key, sums in now.items():
        earlier = before.get(key)
        if not earlier or changed is None:
            continue
        differ = sorted(name for name in sums.keys() | earlier.keys() if sums.get(name) != earlier.get(name))
        if changed and not differ:
            wrong[key] = f"the checksums of all its weights {_UNCHANGED}"
        elif not changed and differ:
            wrong[key] = (
                f"the checksums of {len(differ)} of its {len(sums)} weights differ from those of the last "
                f"verification, first {differ[0]}: it was reloaded since"
            )
    return wrong | _different(now, wrong)


def _different(now: Mapping[int, Mapping[str, str]], wrong: Mapping[int, str]) -> dict[int, str]:
    """Workers whose checksums are not those of most; only those with weights of the same names are compared."""
    groups: dict[frozenset[str], list[int]] = {}
    for key, sums in now.items():
        if key not in wrong:
            groups.setdefault(frozenset(sums), []).append(key)
    blamed: list[int] = []
    for names, keys in groups.items():
        kinds: dict[tuple[str, ...], list[int]] = {}
        order = sorted(names)
        for key in keys:
            kinds.setdefault(tuple(now[key][name] for name in order), []).append(key)
        most = sorted(kinds.values(), key=len)
        clear = len(most) == 1 or len(most[-1]) > len(most[-2])
        blamed += [key for members in (most[:-1] if clear else most) for key in members]
    return dict.fromkeys(blamed, "the workers disagree on the checksums of their weights")


def whole(sums: Mapping[str, str]) -> bool:
    """Whether the checksums are of all weights: none is of no bytes."""
    return bool(sums) and _EMPTY not in sums.values()


def _says_something(error: TitoError) -> bool:
    """Whether an error says something about the engine: not that it is slow or has no such route."""
    if isinstance(error, DecodeError):
        return True
    if isinstance(error, TransportError):
        return not str(error).startswith("no answer")
    return isinstance(error, ServerError) and (error.status or 500) >= 500 and not error.retryable
