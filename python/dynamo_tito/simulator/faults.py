"""Faults of the embedded engine, and when each happens."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, TypeAlias, get_args

__all__ = [
    "ADMIN_PATHS",
    "STREAM_KINDS",
    "AdminKind",
    "ContentKind",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "Phase",
    "StreamKind",
]

#: Untrue answers; `contents` has the edits.
ContentKind: TypeAlias = Literal[
    "positive_logprobs",
    "zero_logprobs",
    "short_entries",
    "unrouted_row",
    "unrouted_slot",
    "rows_behind_prompt",
    "no_rows",
    "early_abort",
    "spans_overlap",
    "spans_gap",
    "spans_bare",
    "mask_empty_row",
    "mask_without_token",
    "prompt_count",
    "completion_count",
    "long_echo",
    "artifact_cut",
    "artifact_size",
    "artifact_failed",
    "artifact_ids",
    "events",
]
#: Administration whose answer is not what happened; `admin_faults` has the answers.
AdminKind: TypeAlias = Literal[
    "did_nothing", "refused_reload", "updated_not_flushed", "flush_refused", "session_left_open"
]
#: What goes wrong inside a stream; `stream_faults` has the edits.
StreamKind: TypeAlias = Literal[
    "error_event",
    "no_done",
    "no_finish",
    "duplicate",
    "drop",
    "swap",
    "contradiction",
    "wrong_ids",
    "huge_event",
    "line_ends",
    "comments",
    "data_lines",
    "utf8",
    "content_type",
    "unary",
]
FaultKind: TypeAlias = Literal[
    ContentKind,
    AdminKind,
    StreamKind,
    "status",
    "not_ready",
    "error_body",
    "reset",
    "stall",
    "truncate",
    "trickle",
    "length",
    "delay",
    "abort",
    "finish",
    "wrong_rows",
    "die",
    "restart",
]
Phase: TypeAlias = Literal["accept", "request", "sampled", "headers", "body"]

STREAM_KINDS: frozenset[FaultKind] = frozenset(get_args(StreamKind))
# What no stream has.
_UNARY: frozenset[FaultKind] = frozenset(("length", "events"))
_LOADS = ("/load_lora", "/load_lora_adapter")
_UPDATES = ("/update_weights_from_disk", "/update_weights_from_distributed")
#: The routes that a fault of administration fits, by the end of their path, if it names none.
ADMIN_PATHS: Mapping[FaultKind, tuple[str, ...]] = {
    "did_nothing": (*_LOADS, *_UPDATES, "/update_weights", "/finish_weight_update", "/collective_rpc"),
    "refused_reload": _LOADS,
    "updated_not_flushed": _UPDATES,
    "flush_refused": ("/flush_cache", "/reset_prefix_cache"),
    "session_left_open": ("/update_weights",),
}

_DEFAULT_PHASE: Mapping[FaultKind, Phase] = {
    **dict.fromkeys((*get_args(ContentKind), *get_args(AdminKind)), "sampled"),
    **dict.fromkeys(get_args(StreamKind), "body"),
    "status": "request",
    "not_ready": "request",
    "error_body": "sampled",
    "reset": "body",
    "stall": "body",
    "truncate": "body",
    "trickle": "body",
    "length": "headers",
    "delay": "request",
    "abort": "sampled",
    "finish": "sampled",
    "wrong_rows": "sampled",
    "die": "request",
    "restart": "request",
}
_PHASES: Mapping[FaultKind, frozenset[Phase]] = {
    "status": frozenset(("request", "sampled")),
    "reset": frozenset(get_args(Phase)),
    "stall": frozenset(get_args(Phase)),
    "truncate": frozenset(("headers", "body")),
    "delay": frozenset(("request", "sampled")),
    "error_body": frozenset(("request", "sampled")),
    "die": frozenset(("request", "sampled")),
    "restart": frozenset(("request", "sampled")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of one request.

    | kind | what happens | phases (first: default) |
    |---|---|---|
    | `status` | an error with `status`, `message` and `headers`, in the backend's envelope | request, sampled |
    | `not_ready` | the backend's 503 that says that sampling did not start | request |
    | `error_body` | 200 with an error in the body (`body`, or the backend's envelope) | sampled, request |
    | `reset` | the connection is reset (RST) | body, accept, request, sampled, headers |
    | `stall` | silence for `seconds` (None: for good) | body, accept, request, sampled, headers |
    | `truncate` | the connection is closed (FIN) after `at` bytes | body, headers |
    | `trickle` | the body comes in pieces of `chunk` bytes, `seconds` apart, from byte `at` on | body |
    | `length` | Content-Length is off by `by` | headers |
    | `delay` | the answer is `seconds` late | request, sampled |
    | `abort` | the engine aborts after `at` tokens; finish reason abort, in the backend's spelling | sampled |
    | `finish` | another finish reason (`message`) and stop reason | sampled |
    | `wrong_rows` | `by` rows of routed experts too many (negative: too few) | sampled |
    | `die` | the engine stops: nothing listens any more | request, sampled |
    | `restart` | as if replaced: same address, another identity, not paused, first weights | request, sampled |

    Answers of which a part is not true or not there (phase sampled); 500 where the answer has no such part:

    | kind | what the answer says |
    |---|---|
    | `positive_logprobs` | log-probabilities above zero, as of a server in raw-logits mode |
    | `zero_logprobs` | every sampled token has the log-probability 0 |
    | `short_entries` | the first `by` entries of the choice's log-probabilities are missing |
    | `unrouted_row`, `unrouted_slot` | expert -1 in `by` rows from row `at` on; in one slot of row `at` |
    | `rows_behind_prompt` | routed experts of the sampled tokens alone, as of a decode-only worker |
    | `no_rows` | no routed experts |
    | `early_abort` | aborted before the first token: no tokens, no routed experts |
    | `spans_overlap`, `spans_gap`, `spans_bare` | two weight versions of a token; none; a version without positions |
    | `mask_empty_row`, `mask_without_token` | no token survives the mask of row `at`; the sampled one does not |
    | `prompt_count`, `completion_count` | a count of tokens that is off by `by` |
    | `long_echo` | the echoed prompt is `by` tokens longer than the one that was sent |
    | `artifact_cut` | the last `by` bytes of the artifact are missing |
    | `artifact_size` | the artifact's `byte_count` is off by `by` |
    | `artifact_failed` | the capture failed: no artifact, and the error code `message` (`capture_invalid` by default) |
    | `artifact_ids` | the artifact has another token at position `at` of prompt and completion |
    | `events` | server-sent events for a request that did not ask to stream |

    Inside a stream (phase body), for requests that ask for one; an error in the stream where it has no such part.
    `at` counts the events that bring tokens, or all events for `error_event` and `huge_event`:

    | kind | what the stream says |
    |---|---|
    | `error_event` | an error (`status`, `message`, or `body` as it is) in place of event `at` and of all that follow |
    | `no_done`, `no_finish` | no `[DONE]`; no finish reason |
    | `duplicate`, `drop`, `swap` | event `at` twice; not at all; after the next one |
    | `contradiction` | cumulative event `at` says another id (`message="logprob"`: value) of the first token |
    | `wrong_ids` | the last event of a choice names other ids |
    | `huge_event` | event `at` has `by` bytes more, in an unknown field |
    | `line_ends` | lines end in `message` (CRLF by default, CR, or `"mixed"`) |
    | `comments` | comments, `id` and `retry` between the events and in them |
    | `data_lines` | each document is in several `data` lines |
    | `utf8` | letters of 2, 3 and 4 bytes, and the body in pieces of `chunk` bytes |
    | `content_type` | `message` (`application/json` by default) is the content type |
    | `unary` | one JSON document |

    Administration whose answer is not what happened (phase sampled), on the routes of `ADMIN_PATHS`:

    | kind | what happens |
    |---|---|
    | `did_nothing` | a success that changes nothing |
    | `refused_reload` | an adapter is refused (404, or as the backend says it); nothing changes |
    | `updated_not_flushed` | SGLang's 400 for weights that it has taken without emptying the cache |
    | `flush_refused` | the cache is not emptied, as while requests drain |
    | `session_left_open` | vLLM's update fails between start and finish; its session stays open |

    Phases: `accept`: as soon as the connection is there; `request`: the request has been read, nothing is sampled;
    `sampled`: the engine has done its work, nothing is sent; `headers`, `body`: after `at` bytes of them. `at` is a
    number of bytes (negative: from the end), or a share of them when it is a float; in a stream with `unit="events"` a
    number of events. A stream whose place is a share or counted from the end is sent when all of it is there.
    """

    kind: FaultKind
    phase: Phase | None = None
    #: Only requests whose path ends with this. None: requests that sample, or the routes of `ADMIN_PATHS`.
    path: str | None = None
    #: How many requests that fit are let through before.
    skip: int = 0
    at: int | float = 0
    unit: Literal["bytes", "events"] = "bytes"
    by: int = 1
    status: int = 500
    message: str | None = None
    stop_reason: int | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    seconds: float | None = None
    chunk: int = 1
    #: How the end of the body is known: by Content-Length, by chunks, or by the end of the connection. None: as the
    #: backend does.
    framing: Literal["length", "chunked", "close"] | None = None

    def __post_init__(self) -> None:
        if self.kind not in _DEFAULT_PHASE:
            raise ValueError(f"kind must be one of {', '.join(_DEFAULT_PHASE)}, got {self.kind!r}")
        allowed = _PHASES.get(self.kind, frozenset((_DEFAULT_PHASE[self.kind],)))
        if self.phase is not None and self.phase not in allowed:
            raise ValueError(f"{self.kind} happens in phase {' or '.join(sorted(allowed))}, got {self.phase!r}")

    @property
    def when(self) -> Phase:
        """The phase in which it happens."""
        return self.phase or _DEFAULT_PHASE[self.kind]

    def happens(self, kind: FaultKind, phase: Phase | None = None) -> bool:
        """Whether it is of this kind, in this phase if one is given."""
        return self.kind == kind and phase in (None, self.when)

    def position(self, total: int) -> int:
        """`at` as a number of bytes of `total`."""
        at = int(self.at * total) if isinstance(self.at, float) else self.at
        return max(0, min(total, at + total if at < 0 else at))


class FaultPlan:
    """Scripted faults in their order, and random ones at a rate."""

    def __init__(self, *, seed: int, rate: float, random_faults: tuple[Fault, ...]) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"fault_rate must be between 0 and 1, got {rate}")
        if rate and not random_faults:
            raise ValueError("fault_rate needs random_faults to choose from")
        #: Each fault, and the number of fitting requests before it.
        self._scripted: list[tuple[Fault, int]] = []
        self._rate, self._faults = rate, random_faults
        self._random = random.Random(seed)  # noqa: S311 - repeatable by design
        self._lock = Lock()

    def script(self, *faults: Fault) -> None:
        """Append to the script: each fault happens once, to the first request that it fits."""
        with self._lock:
            self._scripted += [(fault, fault.skip) for fault in faults]

    def clear(self) -> None:
        """Drop the faults that have not happened yet."""
        with self._lock:
            self._scripted.clear()

    def pending(self) -> tuple[Fault, ...]:
        """The faults that have not happened yet."""
        with self._lock:
            return tuple(fault for fault, _ in self._scripted)

    def on_accept(self) -> Fault | None:
        """The fault of a new connection."""
        return self._take(lambda fault: fault.when == "accept")

    def on_request(self, path: str, *, samples: bool, streams: bool = False) -> Fault | None:
        """The fault of a request."""

        def fits(fault: Fault) -> bool:
            if fault.when == "accept" or fault.kind in (_UNARY if streams else STREAM_KINDS):
                return False
            if fault.path is not None:
                return path.endswith(fault.path)
            routes = ADMIN_PATHS.get(fault.kind)
            return samples if routes is None else path.endswith(routes)

        scripted = self._take(fits)
        if scripted is not None:
            return scripted
        fitting = [fault for fault in self._faults if (samples and fault.when == "accept") or fits(fault)]
        with self._lock:
            return self._random.choice(fitting) if fitting and self._random.random() < self._rate else None

    def _take(self, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for number, (fault, skip) in enumerate(self._scripted):
                if not fits(fault):
                    continue
                if skip:
                    self._scripted[number] = fault, skip - 1
                    continue
                del self._scripted[number]
                return fault
        return None
