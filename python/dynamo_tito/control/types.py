"""Types of the control plane: workers, requests to them, deadlines, results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

PauseMode: TypeAlias = Literal["keep", "wait", "abort"]
"""What becomes of requests in flight: kept and continued after the pause, waited for, or aborted."""

Phase: TypeAlias = Literal["gate", "pause", "update", "verify", "flush", "resume"]
"""The phases of an operation, in their order."""

Policy: TypeAlias = Literal["resume_updated", "resume_all", "keep_paused"]
"""Which workers resume when an update reached only some of them. The call raises in any case.

``resume_updated``: those that hold the new weights; the others stay paused, so that nothing is sampled from old ones.
``resume_all``: all; the fleet samples from mixed weights, and from weights that may be destroyed: an update that
failed half-way leaves vLLM with emptied layers. ``keep_paused``: none.
"""

WorkerState: TypeAlias = Literal["running", "paused", "unknown"]
"""Whether a worker generates, by its last answer; ``unknown`` where no answer shows it.

It is ``unknown`` too after an update that may have begun and failed: the worker is held paused, its weights are not
known.
"""

VerifiedBy: TypeAlias = Literal["canary", "checksum", "label", "list"]
"""How a worker's weights were checked: scores of a canary, checksums of the weights, or only the version's label.

An adapter is looked up in the worker's list of adapters.
"""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """The identity of one running worker, whatever its address. A restarted worker has another.

    Attributes:
        namespace: Dynamo's namespace.
        component: Dynamo's component.
        endpoint: Dynamo's endpoint, ``"rl"``.
        instance_id: an unsigned 64-bit number; usually above 2^53, so that a float would name another worker.
    """

    namespace: str
    component: str
    endpoint: str
    instance_id: int

    def __str__(self) -> str:
        return f"{self.namespace}.{self.component}.{self.endpoint}/{self.instance_id}"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as Dynamo's discovery lists it.

    Attributes:
        identity: see :class:`Identity`.
        system_url: its system server, where it is administered; None if it has none.
        admin_base_url: the engine's own HTTP server, where one runs beside Dynamo's.
        model: the name that it serves.
        routes: names of its administration routes.
        world_size: its tensor- and data-parallel ranks.
        error: why discovery could not ask it.
    """

    identity: Identity
    system_url: str | None = None
    admin_base_url: str | None = None
    model: str | None = None
    routes: tuple[str, ...] = ()
    world_size: int | None = None
    error: str | None = None

    @property
    def problem(self) -> str | None:
        """The reason why it cannot be administered; None if it can."""
        if self.error is not None:
            return self.error
        if self.system_url is None and self.admin_base_url is None:
            return "no system_url: start the worker with DYN_SYSTEM_PORT"
        return None


@dataclass(frozen=True, slots=True)
class Changes:
    """How the membership changed, by identity.

    Attributes:
        joined: workers that were not there before.
        left: workers that are gone.
        restarted: (old, new) where a new identity answers at an old one's address.
    """

    joined: tuple[Worker, ...] = ()
    left: tuple[Worker, ...] = ()
    restarted: tuple[tuple[Worker, Worker], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.joined or self.left or self.restarted)


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """New weights.

    Attributes:
        version: the name under which they are reported; always sent.
        path: absolute path of a checkpoint that the worker can read; None to receive the weights by collective.
        engine_rpc: the engine's method that takes them, where a backend lets one choose (Dynamo).
        options: further members of the backend's request, such as ``names``, ``dtypes`` and ``shapes``.
    """

    version: str
    path: str | None = None
    engine_rpc: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.version:
            raise ValueError("version must not be empty")
        if self.path is not None:
            check_path(self.path)


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """A process group that brings weights from the trainer, as one worker joins it.

    Attributes:
        host: where the trainer's first rank listens.
        port: likewise.
        world_size: ranks of the group, the trainer's included.
        rank_offset: this worker's first rank.
        trainer_ranks: ranks before those of the first worker.
        timeout: seconds that the worker waits for the others.
        name: the group's name, where a backend has names.
        options: further members of the backend's request.
    """

    host: str
    port: int
    world_size: int
    rank_offset: int
    trainer_ranks: int = 1
    timeout: float = 300.0
    name: str = "weights"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PhaseLimit:
    """Seconds of one phase, on each worker.

    Attributes:
        attempt: of one request.
        total: of the phase, with repeated requests and the waits between them.
    """

    attempt: float
    total: float

    def __post_init__(self) -> None:
        if not (0 < self.attempt <= self.total < math.inf):
            raise ValueError(f"0 < attempt <= total must hold, got attempt={self.attempt!r}, total={self.total!r}")


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Deadlines of every phase, and the number of attempts of a request that may be repeated.

    Attributes:
        gate: wait for another operation of the fleet, ask every worker for its state.
        pause: pause; with mode ``wait`` it lasts as long as the longest completion.
        update: load weights.
        verify: read versions and checksums back, score the canary.
        flush: empty caches.
        resume: resume.
        attempts: the most often that a request is sent.
        wait: seconds before the second attempt, at most; doubles up to ``max_wait``, with full jitter.
        max_wait: seconds.
    """

    gate: PhaseLimit = PhaseLimit(30.0, 120.0)
    pause: PhaseLimit = PhaseLimit(300.0, 600.0)
    update: PhaseLimit = PhaseLimit(720.0, 1440.0)
    verify: PhaseLimit = PhaseLimit(30.0, 60.0)
    flush: PhaseLimit = PhaseLimit(60.0, 120.0)
    resume: PhaseLimit = PhaseLimit(300.0, 600.0)
    attempts: int = 10
    wait: float = 1.0
    max_wait: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")

    def of(self, phase: Phase) -> PhaseLimit:
        """The limit of a phase."""
        limit: PhaseLimit = getattr(self, phase)
        return limit


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """The outcome of one operation on one worker.

    Attributes:
        worker: its name in messages: its identity, or its URL without credentials.
        phase: the phase that it completed last, or in which it failed.
        error: the first error; None if there was none.
        state_before: whether it generated when the operation began.
        state: whether it does now.
        updated: whether it loaded what was asked for; None where that is not known.
        version_before: the weight version it reported before; None if it reports none.
        version: the one it reports now; None if that could not be read back.
        verified: True if the canary or the checksums show the new weights; False if they, or the label, show other
            ones; None otherwise, as when only the label was checked: the label repeats what was sent.
        verified_by: what ``verified`` was read from; ``"label"`` where the label is right and nothing else was checked.
    """

    worker: str
    phase: Phase
    error: Exception | None
    state_before: WorkerState
    state: WorkerState
    updated: bool | None
    version_before: str | None
    version: str | None
    verified: bool | None
    verified_by: VerifiedBy | None = None

    def __str__(self) -> str:
        versions = f"version {self.version_before or 'unknown'} -> {self.version or 'unknown'}"
        said = f": {self.error}" if self.error is not None else ""
        return f"{self.worker} [{self.phase}, {self.state}, {versions}]{said}"


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The outcome of an operation.

    Attributes:
        workers: one result per worker.
        notes: what could not be checked, in words.
        model: what a request sends as ``model`` to sample from the adapter that was loaded; None unless one was.
    """

    workers: tuple[WorkerResult, ...]
    notes: tuple[str, ...] = ()
    model: str | None = None

    @property
    def failed(self) -> tuple[WorkerResult, ...]:
        """The workers with an error."""
        return tuple(result for result in self.workers if result.error is not None)

    @property
    def unverified(self) -> tuple[WorkerResult, ...]:
        """The workers whose weights were not checked, or only by the label."""
        return tuple(result for result in self.workers if result.verified is None)


def check_path(path: str) -> None:
    """Raise ValueError unless the path is absolute."""
    if not path.startswith("/"):
        raise ValueError(f"a worker needs an absolute path, not {path!r}")
