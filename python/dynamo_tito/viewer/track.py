"""What the page shows of one sequence, whichever record it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dynamo_tito._types import Completion, TopLogprobs
from dynamo_tito.rollout.sample import TrainingSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynamo_tito._types import FinalRow, Float64Array, Int32Array, LogprobArray, RoutedExperts

UNKNOWN = -1
"""The id of a prompt token that nobody named."""

Viewable: TypeAlias = Completion | TrainingSample


@dataclass(frozen=True, slots=True)
class Routing:
    """Routed experts [rows, layers, top_k], row 0 at position ``start``."""

    array: NDArray[np.integer[Any]]
    start: int


@dataclass(frozen=True, slots=True)
class Turn:
    """[start, completion_start) is prompt, [completion_start, end) was sampled."""

    start: int
    completion_start: int
    end: int
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One sequence of N positions.

    Attributes:
        token_ids: int32 [N]; -1 for a prompt token whose id is not known.
        mask: bool [N], True where sampled.
        logprobs: float64 or float32 [N]; NaN where there is none.
        versions: the versions of the weights, and int32 [N], which of them sampled the token, -1 for none.
        top: the alternatives, N positions.
        vocabulary: int32 [N], how many ids the sampler could choose from; 0 where that is not known.
        arrivals: float64 [N], seconds; NaN where there is none.
        shared: tokens from the beginning on that an earlier sample of the rollout has, too.
        facts: what else is known, as pairs of texts.
    """

    kind: str
    token_ids: Int32Array
    mask: NDArray[np.bool_]
    logprobs: LogprobArray
    routing: Routing | None
    turns: tuple[Turn, ...]
    versions: tuple[tuple[str, ...], Int32Array]
    top: TopLogprobs | None = None
    vocabulary: Int32Array | None = None
    arrivals: Float64Array | None = None
    shared: int = 0
    facts: tuple[tuple[str, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.token_ids)


def track_of(
    record: Viewable,
    *,
    prompt_len: int | None,
    prompt_token_ids: Sequence[int] | Int32Array | None,
    final_row: FinalRow,
) -> Track:
    """The track of a completion or a training sample.

    Raises:
        TypeError: another record.
        ValueError: a prompt of another length than the completion's own, or routed experts that cannot be placed.
    """
    if isinstance(record, TrainingSample):
        return _of_sample(record)
    if isinstance(record, Completion):
        return _of_completion(record, prompt_len, prompt_token_ids, final_row)
    raise TypeError(f"view takes completions, training samples, rollouts and sequences of them, not {_kind(record)}")


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _of_sample(sample: TrainingSample) -> Track:
    experts = sample.routed_experts
    return Track(
        kind="TrainingSample",
        token_ids=sample.token_ids,
        mask=sample.mask,
        logprobs=sample.logprobs,
        routing=None if experts is None else Routing(experts, 0),
        turns=tuple(Turn(turn.start, turn.completion_start, turn.end, _finish(turn)) for turn in sample.turns),
        versions=_versions(
            ((span.version, span.start, span.end, span.measured) for span in sample.weight_versions), len(sample)
        ),
        shared=sample.shared,
        facts=tuple(
            (f"request id, turn {number}", turn.request_id)
            for number, turn in enumerate(sample.turns)
            if turn.request_id is not None
        ),
    )


def _finish(answer: Any) -> str:
    """How an answer ended, in a few words."""
    reason = answer.finish_reason or ("abort" if answer.aborted else "unknown")
    return reason if answer.stop_reason is None else f"{reason} ({answer.stop_reason!r})"


def _of_completion(
    completion: Completion,
    prompt_len: int | None,
    prompt_token_ids: Sequence[int] | Int32Array | None,
    final_row: FinalRow,
) -> Track:
    prompt = _prompt(completion, prompt_len, prompt_token_ids, final_row)
    before, count = len(prompt), len(completion.token_ids)
    scored, own = completion.prompt_logprobs, completion.top_logprobs
    logprobs = np.full(before + count, np.nan)
    if scored is not None:
        if len(scored.logprobs) != before:
            raise ValueError(f"prompt_logprobs are of {len(scored.logprobs)} tokens, the prompt has {before}")
        logprobs[:before] = scored.logprobs
    if completion.logprobs is not None:
        logprobs[before:] = completion.logprobs
    mask = np.zeros(before + count, np.bool_)
    mask[before:] = True
    routing = completion.routed_experts
    allowed, timing = completion.sampling_mask, completion.timing
    return Track(
        kind="Completion",
        token_ids=np.concatenate([prompt, completion.token_ids]),
        mask=mask,
        logprobs=logprobs,
        routing=None if routing is None else Routing(routing.array, routing.start),
        turns=(Turn(0, before, before + count, _finish(completion)),),
        versions=_versions(_spans(completion, before), before + count),
        top=_joined(None if scored is None else scored.top, before, own, count),
        vocabulary=None if allowed is None else _behind(before, np.diff(allowed.offsets).astype(np.int32), 0),
        arrivals=None if timing is None else _behind(before, timing.arrivals, np.nan),
        facts=tuple(_facts(completion)),
    )


def _behind(before: int, values: NDArray[Any], fill: float) -> NDArray[Any]:
    """Values of the sampled tokens, behind a prompt that has none."""
    return np.concatenate([np.full(before, fill, values.dtype), values])


def _prompt(
    completion: Completion,
    prompt_len: int | None,
    prompt_token_ids: Sequence[int] | Int32Array | None,
    final_row: FinalRow,
) -> Int32Array:
    """The prompt's ids: as given, as the server echoed them, or unknown ones of its length."""
    echoed = completion.prompt_token_ids
    given = echoed if prompt_token_ids is None else np.asarray(prompt_token_ids, np.int32)
    if given is not None and echoed is not None and not np.array_equal(given, echoed):
        raise ValueError("prompt_token_ids are not those that the completion echoes")
    if prompt_len is not None and given is not None and len(given) != prompt_len:
        raise ValueError(f"prompt_len is {prompt_len}, the prompt has {len(given)} token ids")
    routing = completion.routed_experts
    length = len(given) if given is not None else prompt_len
    if routing is not None:
        found = _prompt_len(routing, len(completion.token_ids), final_row)
        if length is None and found is None:
            raise ValueError("rows of the routed experts are missing: pass prompt_len to place those that came")
        if length is not None and found is not None and found != length:
            raise ValueError(f"the routed experts are those of a prompt of {found} tokens, not of {length}")
        length = found if length is None else length
    return given if given is not None else np.full(length or 0, UNKNOWN, np.int32)


def _prompt_len(routing: RoutedExperts, count: int, final_row: FinalRow) -> int | None:
    """The prompt's length that the rows tell; None where rows are missing."""
    if not routing.complete:
        return None
    length = routing.start + len(routing.array) - count + (final_row == "omitted")
    if length < 0:
        raise ValueError(f"{len(routing.array)} rows of routed experts from {routing.start} on for {count} tokens")
    return length


def _joined(prompt: TopLogprobs | None, before: int, own: TopLogprobs | None, count: int) -> TopLogprobs | None:
    """The alternatives of the prompt's positions and of the sampled ones, behind each other."""
    first = _nothing(before) if prompt is None else prompt
    second = _nothing(count) if own is None else own
    if not len(first.token_ids) and not len(second.token_ids):
        return None
    return TopLogprobs(
        np.concatenate([first.token_ids, second.token_ids]),
        np.concatenate([first.logprobs, second.logprobs]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
    )


def _nothing(positions: int) -> TopLogprobs:
    return TopLogprobs(np.empty(0, np.int32), np.empty(0), np.zeros(positions + 1, np.int64))


Span: TypeAlias = tuple[str, int, int, bool]
"""A version, the tokens [start, end) that it sampled, and whether the engine recorded which those are."""


def _spans(completion: Completion, before: int) -> Iterator[Span]:
    """A label without positions stands for every token of the answer, and is no measurement."""
    count = len(completion.token_ids)
    for span in completion.weight_versions or ():
        start, end = span.get("start", 0), span.get("end", count)
        yield str(span["version"]), before + start, before + end, "start" in span


def _versions(spans: Iterable[Span], length: int) -> tuple[tuple[str, ...], Int32Array]:
    """The versions in the order in which they first sampled, and which of them sampled each token; -1 for none."""
    names: dict[str, int] = {}
    indices = np.full(length, -1, np.int32)
    for version, start, end, measured in spans:
        name = version if measured else f"{version} (label of the answer)"
        indices[start:end] = names.setdefault(name, len(names))
    return tuple(names), indices


def _facts(completion: Completion) -> list[tuple[str, str]]:
    found: list[tuple[str, Any]] = [
        ("finish reason", completion.finish_reason),
        ("finish reason on the wire", completion.finish_reason_raw),
        ("stop reason", completion.stop_reason),
        ("aborted", completion.aborted),
        ("request id", completion.request_id),
        ("choice", completion.index),
        ("usage", completion.usage),
        *((f"source of {name}", source) for name, source in completion.sources.items()),
    ]
    return [(name, _said(value)) for name, value in found if value is not None]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)
