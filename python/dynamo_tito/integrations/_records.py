"""Our records made of what a framework holds, and the parts that every framework asks of ours."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from dynamo_tito._errors import AlignmentError, MissingFieldError, RoutedExpertsError
from dynamo_tito._native import encode_routed_experts
from dynamo_tito._types import Completion, RoutedExperts, WireDtype
from dynamo_tito.rollout import TrainingSample, TurnSpan, WeightSpan
from dynamo_tito.rollout.routing import complete

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from dynamo_tito._types import Int32Array
    from dynamo_tito.rollout import FinalRowPolicy
    from dynamo_tito.rollout.routing import Chunk


def ids_of(values: Any) -> Int32Array:
    """Token ids of a list, an array or a tensor as int32 [n].

    Raises:
        ValueError: not one dimension of whole numbers in [0, 2^31 - 1].
    """
    given = np.asarray(values)
    if not given.size:
        return np.empty(0, np.int32)
    if given.ndim != 1 or given.dtype.kind not in "iu" or int(given.min()) < 0 or int(given.max()) >= 1 << 31:
        raise ValueError("token ids must be one list of whole numbers in [0, 2^31 - 1]")
    return given.astype(np.int32, copy=False)


def whole_rows(completion: Completion, prompt_len: int) -> Chunk | None:
    """The rows of positions 0 to P + C - 2, as engines record them; None where the completion has none.

    A row for the last sampled token, which some engines send, is left out.

    Raises:
        RoutedExpertsError: rows are missing: in front (``"gap"``), or at the end, as an abort leaves it (``"rows"``).
    """
    experts = completion.routed_experts
    if experts is None:
        return None
    if experts.start:
        raise RoutedExpertsError(
            f"routed experts begin at position {experts.start}, the trainer takes them from position 0 on: ask without "
            "routed_experts_prompt_start, or join the turns with a Rollout",
            kind="gap",
        )
    if not len(completion.token_ids) and len(experts.array) < prompt_len - 1:
        return None  # aborted before its first token: there is nothing to train on
    return ending_rows(experts, prompt_len + len(completion.token_ids))


def ending_rows(experts: RoutedExperts, tokens: int) -> Chunk:
    """The rows from their start to the last token but one.

    Raises:
        RoutedExpertsError: kind ``"rows"``: fewer, or more than one for each token.
    """
    count = tokens - 1 - experts.start
    if len(experts.array) not in (count, count + 1):
        raise RoutedExpertsError(
            f"{len(experts.array)} rows of routed experts from position {experts.start} on for {tokens} tokens, the "
            f"trainer takes {count}: an aborted completion is continued or dropped",
            kind="rows",
        )
    return experts.array[:count]


def recorded_rows(sample: TrainingSample) -> Chunk | None:
    """The rows of positions 0 to N - 2; that of the last token is a policy's, not an engine's."""
    rows = sample.routed_experts
    return None if rows is None else rows[: max(len(sample) - 1, 0)]


def cast(rows: Chunk, dtype: DTypeLike) -> Chunk:
    """Rows of another width: the same array where it has it, else one copy.

    Raises:
        RoutedExpertsError: kind ``"dtype"``: an id does not fit.
    """
    wanted = np.dtype(dtype)
    if rows.dtype == wanted:
        return rows
    have, want = np.iinfo(rows.dtype), np.iinfo(wanted)
    for narrower, extreme in ((have.max > want.max, rows.max), (have.min < want.min, rows.min)):
        if narrower and rows.size and not want.min <= int(extreme()) <= want.max:
            raise RoutedExpertsError(f"expert {int(extreme())} does not fit {wanted}", kind="dtype")
    return rows.astype(wanted)


def base64_of(rows: Chunk) -> str:
    """The bytes of rows in base64, little-endian and in C order."""
    plain = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    wide = plain.view(np.uint8) if plain.size else np.empty((len(plain), *plain.shape[1:]), np.uint8)
    text: str = encode_routed_experts(wide, narrow=False)["data"]
    return text


def logprobs_of(completion: Completion) -> NDArray[np.floating[Any]]:
    """The log-probabilities of the sampled tokens.

    Raises:
        MissingFieldError: the completion has none, or one of them is NaN.
    """
    if completion.logprobs is None:
        raise MissingFieldError(
            "the completion has no log-probabilities: ask for them", kind="missing", path="logprobs"
        )
    if np.isnan(completion.logprobs).any():
        place = int(np.isnan(completion.logprobs).argmax())
        raise MissingFieldError(f"token {place} has no log-probability", kind="no_logprob", path=f"logprobs[{place}]")
    return completion.logprobs


def sampled_logprobs(sample: TrainingSample) -> NDArray[np.floating[Any]]:
    """The log-probabilities of a sample [N], 0.0 where no token was sampled.

    Raises:
        MissingFieldError: a sampled token has none.
    """
    if (missing := np.isnan(sample.logprobs) & sample.mask).any():
        place = int(missing.argmax())
        raise MissingFieldError(f"token {place} has no log-probability", kind="no_logprob", path=f"logprobs[{place}]")
    return np.where(sample.mask, sample.logprobs, 0.0)


def prompt_length(sample: TrainingSample) -> int:
    """Tokens before the first sampled one.

    Raises:
        ValueError: no token was sampled.
    """
    if not sample.mask.any():
        raise ValueError("the sample has no sampled token, so nothing to train on")
    return int(sample.mask.argmax())


def completion_of(
    token_ids: Any,
    logprobs: Any,
    *,
    source: str,
    prompt_len: int,
    rows: Any = None,
    finish_reason: str | None = None,
    stop_reason: int | str | None = None,
    **fields: Any,
) -> Completion:
    """A completion of what a framework holds.

    Args:
        token_ids: those that were sampled, C.
        logprobs: one for each, or None.
        source: where the values come from, for :attr:`dynamo_tito.Completion.sources`.
        prompt_len: P.
        rows: routing [P + C - 1 or P + C, layers, top_k], or None.
        finish_reason: in our spelling.
        stop_reason: the stop string or token id.
        **fields: further attributes of the completion.

    Raises:
        AlignmentError: the log-probabilities are not one for each token.
        RoutedExpertsError: the rows are not those of the tokens.
    """
    ids = ids_of(token_ids)
    values = None if logprobs is None else np.asarray(logprobs, np.float64)
    if values is not None and values.shape != ids.shape:
        raise AlignmentError(f"{values.size} log-probabilities for {len(ids)} tokens", kind="count", path="logprobs")
    experts = None if rows is None else _experts(rows, prompt_len + len(ids) - 1)
    names = {"token_ids": ids, "logprobs": values, "routed_experts": experts}
    blank: dict[str, Any] = dict.fromkeys(
        ("top_logprobs", "prompt_token_ids", "prompt_logprobs", "sampling_mask", "request_id", "usage")
    )
    return Completion(
        **{
            **blank,
            **names,
            "finish_reason": finish_reason,
            "finish_reason_raw": finish_reason,
            "stop_reason": stop_reason,
            "aborted": None if finish_reason is None else finish_reason == "abort",
            "index": 0,
            "weight_versions": None,
            "sources": {name: source for name, value in names.items() if value is not None},
            **fields,
        }
    )


def sample_from(
    token_ids: Any,
    mask: Any,
    logprobs: Any,
    *,
    rows: Any = None,
    final_row: FinalRowPolicy = "repeat",
    versions: Any = None,
    finish_reason: str | None = None,
) -> TrainingSample:
    """A training sample of what a framework holds. Each run of sampled tokens is a turn.

    Args:
        token_ids: of the whole sequence, N.
        mask: true where the token was sampled, N.
        logprobs: N; or None. Those of tokens that were not sampled are not read.
        rows: routing [N - 1 or N, layers, top_k], or None.
        final_row: the row of the last token where ``rows`` has none.
        versions: the version that sampled each token, whole numbers [N]; -1 where none did.
        finish_reason: why the last turn ended.

    Raises:
        AlignmentError: the parts differ in length.
        RoutedExpertsError: the rows are not those of the tokens.
    """
    ids, sampled = ids_of(token_ids), np.asarray(mask).astype(np.bool_)
    values = np.full(len(ids), np.nan) if logprobs is None else np.asarray(logprobs, np.float64)
    if not len(ids) == len(sampled) == len(values):
        raise AlignmentError(
            f"{len(ids)} tokens, {len(sampled)} of a mask, {len(values)} log-probabilities", kind="count"
        )
    experts = None if rows is None else _experts(rows, len(ids) - 1).array
    held = None if experts is None else complete([experts], tokens=len(ids), policy=final_row)
    kept = len(ids) if held is None else len(held)
    turns = tuple(_turns(sampled[:kept], None if versions is None else np.asarray(versions), finish_reason))
    return TrainingSample(ids[:kept], sampled[:kept], np.where(sampled, values, np.nan)[:kept], held, turns)


def last_version(completion: Completion) -> str | None:
    """The version that sampled the last token, where the server says one."""
    return str(completion.weight_versions[-1]["version"]) if completion.weight_versions else None


def version_number(label: str | None) -> int | None:
    """The whole number that a version ends with, as 7 of ``"step_7"``; None where it ends with none."""
    digits = "" if label is None else label[len(label.rstrip("0123456789")) :]
    return int(digits) if digits else None


def version_numbers(completion: Completion, otherwise: int) -> NDArray[np.int64]:
    """Int64 [C]: the number of the version that sampled each token; ``otherwise`` where no version is known."""
    numbers = np.full(len(completion.token_ids), otherwise, np.int64)
    for span in completion.weight_versions or ():
        number = version_number(str(span["version"]))
        if number is not None:
            numbers[span.get("start", 0) : span.get("end", len(numbers))] = number
    return numbers


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """SGLang's names of sampling parameters as ours; what only shapes text is left out."""
    renamed = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}
    text = {"skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim"}
    return {renamed.get(name, name): value for name, value in params.items() if name not in text and value is not None}


def _experts(rows: Any, fewest: int) -> RoutedExperts:
    array = np.asarray(rows)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise RoutedExpertsError(
            f"routed experts must be whole numbers [rows, layers, top_k], not {array.dtype}{[*array.shape]}",
            kind="shape",
        )
    if array.size and array.dtype.kind == "i" and int(array.min()) < 0:
        raise RoutedExpertsError(f"expert {int(array.min())}: a row holds no route", kind="no_route")
    if len(array) not in (fewest, fewest + 1):
        raise RoutedExpertsError(
            f"{len(array)} rows of routed experts for {fewest + 1} tokens, not {fewest} or {fewest + 1}", kind="rows"
        )
    if array.dtype.name not in get_args(WireDtype):
        array = cast(array, np.int16 if array.dtype == np.int8 else np.int32)
    return RoutedExperts(array=array, start=0, wire_dtype=array.dtype.name, complete=True)  # type: ignore[arg-type]


def _turns(
    mask: NDArray[np.bool_], versions: NDArray[np.integer[Any]] | None, finish_reason: str | None
) -> Iterator[TurnSpan]:
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    before = 0
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        spans = () if versions is None else tuple(_spans(versions[first:last], first))
        reason = finish_reason if last == edges[-1] else None
        yield TurnSpan(before, first, last, reason, None, None if reason is None else reason == "abort", None, spans)
        before = last


def _spans(versions: NDArray[np.integer[Any]], first: int) -> Iterator[WeightSpan]:
    edges: Sequence[int] = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
    for start, end in pairwise(edges):
        if versions[start] >= 0:
            yield WeightSpan(str(int(versions[start])), first + start, first + end)


__all__ = [
    "base64_of",
    "cast",
    "completion_of",
    "ending_rows",
    "ids_of",
    "last_version",
    "logprobs_of",
    "plain_params",
    "prompt_length",
    "recorded_rows",
    "sample_from",
    "sampled_logprobs",
    "version_number",
    "version_numbers",
    "whole_rows",
]
