"""A canary: tokens that every worker scores. The scores show which weights it holds, its label does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dynamo_tito._errors import AdminError, TitoError

from ._operation import Progress, attempts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._operation import Operation
    from ._types import FleetLimits

    Logprobs = NDArray[np.float64]


def default_token_ids() -> tuple[int, ...]:
    """33 ids in [10, 250): in every vocabulary, beyond the special tokens that often come first."""
    return tuple(10 + 97 * place % 240 for place in range(33))


@dataclass(frozen=True, slots=True)
class Canary:
    """What is scored, and how near the scores must be.

    A worker that scores is asked for the log-probability of each token given those before it, before an update and
    after it, never from a prefix cache. Distance is the mean of ``|a - b|`` in nats over the positions that are scored.

    Attributes:
        token_ids: the sequence [N]; None for 33 low ids. Best is text of the task itself: random ids are scored with
            more noise, and weights that they do not reach are not seen.
        logprobs: what the trainer's own forward pass with the new weights gives for the tokens from ``start`` on,
            [N - start], natural logarithm. The only way to see that all workers hold the *same wrong* weights.
        tolerance: the largest distance between workers, from the trainer, and from an earlier scoring of the same
            weights. Engines in bf16 differ by some hundredths on tokens of low probability.
        expect_change: whether an update must change some score. False to load the same weights again.
        start: the first position that is compared, at least 1: nothing scores the first token.
        checksum: whether to ask vLLM and SGLang for checksums as well. They hash each weight on the server's CPU, about
            a second for 1 to 2 GB of one rank, and generate nothing meanwhile.
    """

    token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    tolerance: float = 0.05
    expect_change: bool = True
    start: int = 1
    checksum: bool = True
    _ids: tuple[int, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        ids = default_token_ids() if self.token_ids is None else tuple(int(token) for token in self.token_ids)
        if not 1 <= self.start < len(ids):
            raise ValueError(f"start must be between 1 and {len(ids) - 1} for {len(ids)} tokens, not {self.start}")
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance must be a number of nats of at least 0, not {self.tolerance!r}")
        if self.logprobs is not None and len(self.logprobs) != len(ids) - self.start:
            raise ValueError(
                f"{len(self.logprobs)} logprobs for the {len(ids) - self.start} tokens from start={self.start} on"
            )
        if self.logprobs is not None and self.token_ids is None:
            raise ValueError("logprobs need the token_ids that they belong to")
        object.__setattr__(self, "_ids", ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """The sequence that is scored."""
        return self._ids


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one worker showed of its weights.

    Attributes:
        ids: the tokens that were scored, from where on; empty if none were.
        logprobs: their scores; None if there are none.
        checksums: name of a weight to the digest of its bytes; None if the worker has none.
        error: why it did not score.
    """

    ids: tuple[int, ...] = ()
    logprobs: Logprobs | None = None
    checksums: Mapping[str, str] | None = None
    error: TitoError | None = None

    def comparable(self, other: Evidence | None) -> Logprobs | None:
        """The scores of another time or worker, if they are of the same tokens."""
        return other.logprobs if other is not None and self.logprobs is not None and other.ids == self.ids else None


async def gather(operation: Operation, canary: Canary, among: Iterable[Progress]) -> dict[int, Evidence]:
    """The scores of each worker, by ``id(progress)``. Changes nothing, raises nothing."""
    chosen = [*among]
    found = await asyncio.gather(*(_score(operation.limits, progress, canary) for progress in chosen))
    return {id(progress): evidence for progress, evidence in zip(chosen, found, strict=True)}


async def _score(limits: FleetLimits, progress: Progress, canary: Canary) -> Evidence:
    key = (canary.start, *canary.ids)
    try:
        scores = await attempts(
            "verify", limits, lambda: progress.admin.score(canary.ids, start=canary.start), repeat=lambda _: False
        )
    except TitoError as error:
        return Evidence(key, error=error)
    except (NotImplementedError, ValueError) as error:
        return Evidence(key, error=AdminError(str(error)))
    return Evidence(key, None if scores is None else np.asarray(scores, np.float64)[canary.start :])


async def checksums(operation: Operation, among: Iterable[Progress]) -> dict[int, Mapping[str, str]]:
    """The checksums of the workers that have them, by ``id(progress)``."""

    async def ask(progress: Progress) -> Mapping[str, str] | None:
        try:
            return await attempts("verify", operation.limits, progress.admin.weight_checksums, repeat=lambda _: False)
        except TitoError:
            return None

    chosen = [*among]
    answers = await asyncio.gather(*map(ask, chosen))
    return {id(progress): found for progress, found in zip(chosen, answers, strict=True) if found}
