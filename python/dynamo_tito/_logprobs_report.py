"""What is wrong with log-probabilities that have the right count and form.

An engine can answer without a wrong byte and still not say what it sampled with: zeros where nothing was computed, a
constant, logits in place of log-probabilities, an echo that disagrees. None of it is an error of the document, so it is
looked for on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ._errors import MissingFieldError
from ._types import Completion

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_RUN = 32
"""Equal values in succession that are no finding. A sure model gives exact zeros, for a few tokens in a row."""

MAX_POSITIVE = 1e-3
"""What rounding can add to a log-probability of 0."""

MAX_APART = 1e-3
"""How far two channels may be apart: one may be rounded to float32, or computed in another batch."""

_NEAR_ZERO = -1e-5
"""Above it float32 has few values, so right ones repeat."""

_NO_VALUE = -9999.0
"""What vLLM writes for "none"; Dynamo's -1e30 and -inf are below it."""


class LogprobsChecks(TypedDict, total=False):
    """Thresholds of ``strict_logprobs``; the keywords of :func:`logprobs_report`."""

    max_run: int
    max_positive: float
    max_apart: float


@dataclass(frozen=True, slots=True)
class LogprobsReport:
    """Facts about log-probabilities [C].

    Attributes:
        tokens: C.
        missing: NaN, where the engine gave none.
        zeros: values that are exactly 0.
        longest_run: the longest run of one value other than 0 and its close neighbours: its first token and its length.
        positive: values above ``max_positive``.
        first_positive: token of the first one.
        sentinels: values that mean "none": -9999 and below.
        first_sentinel: token of the first one.
        apart: tokens whose value in the top entries is further away than ``max_apart``.
        first_apart: the first one.
        findings: what an engine that computed these values does not show, one line each, with the likely cause.
    """

    tokens: int
    missing: int
    zeros: int
    longest_run: tuple[int, int]
    positive: int
    first_positive: int | None
    sentinels: int
    first_sentinel: int | None
    apart: int
    first_apart: int | None
    findings: tuple[str, ...]


def logprobs_report(
    logprobs: Completion | NDArray[np.floating[Any]],
    *,
    max_run: int = MAX_RUN,
    max_positive: float = MAX_POSITIVE,
    max_apart: float = MAX_APART,
) -> LogprobsReport:
    """Look for log-probabilities that no engine computed for these tokens.

    Servers report the model's own distribution, whatever the temperature, unless they are told otherwise (vLLM:
    ``--logprobs-mode processed_logprobs``, Dynamo: ``--enable-rl``). Values of exactly 0 are right where the model is
    sure, and at all tokens of a processed answer to ``top_k=1``: raise ``max_run`` for those.

    Args:
        logprobs: a completion, or float [C]. Of a completion the sampled tokens' values are also held against the top
            entries, which are another channel of the answer on some wires.
        max_run: equal values in succession, and tokens of an answer of zeros only, that are still no finding.
        max_positive: values up to here are 0 with rounding.
        max_apart: how far the value in the top entries may be from the token's own.

    Raises:
        TypeError: neither a completion nor an array of floats.
        ValueError: a completion without log-probabilities, or an array of another shape.
    """
    values, top = _values(logprobs)
    with np.errstate(invalid="ignore"):
        positive, sentinel = values > max_positive, values <= _NO_VALUE
    apart = np.zeros(0, bool) if top is None else np.abs(top - values) > max_apart
    report = LogprobsReport(
        tokens=len(values),
        missing=int(np.isnan(values).sum()),
        zeros=int((values == 0).sum()),
        longest_run=_longest_run(values),
        positive=int(positive.sum()),
        first_positive=_first(positive),
        sentinels=int(sentinel.sum()),
        first_sentinel=_first(sentinel),
        apart=int(apart.sum()),
        first_apart=_first(apart),
        findings=(),
    )
    object.__setattr__(report, "findings", tuple(_findings(report, values, top, max_run)))
    return report


def logprobs_checks(strict: bool | LogprobsChecks) -> LogprobsChecks | None:  # noqa: FBT001 - it is the option's value
    """``strict_logprobs`` as given: what to check for, or None for nothing."""
    if isinstance(strict, bool):
        return LogprobsChecks() if strict else None
    if not isinstance(strict, Mapping):
        raise TypeError(f"strict_logprobs must be a bool or a mapping, not {type(strict).__name__}")
    if unknown := set(strict) - LogprobsChecks.__optional_keys__:
        raise ValueError(f"strict_logprobs knows no {', '.join(sorted(unknown))}")
    return strict


def refuse_logprobs(completion: Completion, checks: LogprobsChecks | None) -> None:
    """Raise a MissingFieldError of kind ``"logprobs"`` if there is anything to find."""
    if checks is None or completion.logprobs is None:
        return
    report = logprobs_report(completion, **checks)
    if report.findings:
        raise MissingFieldError(
            "; ".join(report.findings), kind="logprobs", path=completion.sources.get("logprobs", "")
        )


def _values(logprobs: Completion | NDArray[np.floating[Any]]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The values, and what the top entries say of the same tokens (NaN where they do not)."""
    if not isinstance(logprobs, Completion):
        array = np.asarray(logprobs)
        if array.dtype.kind != "f":
            raise TypeError(f"logprobs must be a Completion or an array of floats, not {type(logprobs).__name__}")
        if array.ndim != 1:
            raise ValueError(f"logprobs must have one dimension, not {array.ndim}")
        return array, None
    if logprobs.logprobs is None:
        raise ValueError("the completion has no log-probabilities")
    top = logprobs.top_logprobs
    if top is None:
        return logprobs.logprobs, None
    token = np.repeat(np.arange(len(logprobs.token_ids)), np.diff(top.offsets))
    own = np.flatnonzero(top.token_ids == logprobs.token_ids[token])
    said = np.full(len(logprobs.token_ids), np.nan)
    said[token[own]] = top.logprobs[own]
    return logprobs.logprobs, said


def _longest_run(values: NDArray[Any]) -> tuple[int, int]:
    """The longest run of one value below ``_NEAR_ZERO``; (0, 0) if there is none."""
    if not len(values):
        return 0, 0
    begins = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    lengths = np.diff(np.append(begins, len(values)))
    lengths[~(values[begins] < _NEAR_ZERO)] = 0
    longest = int(lengths.argmax())
    return (int(begins[longest]), int(lengths[longest])) if lengths[longest] else (0, 0)


def _first(found: NDArray[np.bool_]) -> int | None:
    return int(found.argmax()) if found.any() else None


def _findings(report: LogprobsReport, values: NDArray[Any], top: NDArray[Any] | None, max_run: int) -> list[str]:
    found = []
    if report.zeros == report.tokens > max_run:
        found.append(
            f"all {report.tokens} values are 0: never computed, as under vLLM's n-gram speculation (vllm#17876), or "
            "processed values of top_k=1"
        )
    at, length = report.longest_run
    if length > max_run:
        found.append(f"{length} equal values {values[at]} from token {at} on: a constant in place of log-probabilities")
    if report.first_positive is not None:
        at = report.first_positive
        found.append(
            f"{report.positive} values are positive, the first {values[at]} at token {at}: logits, as vLLM sends with "
            "--logprobs-mode raw_logits or processed_logits"
        )
    if report.first_sentinel is not None:
        at = report.first_sentinel
        found.append(f"{report.sentinels} values mean that there is none, the first {values[at]} at token {at}")
    if report.first_apart is not None and top is not None:
        at = report.first_apart
        found.append(
            f"{report.apart} values differ from those of the top entries, the first {values[at]} from {top[at]} at "
            f"token {at}: two channels of different computations"
        )
    return found
