"""What decoding returns: immutable records of flat numpy arrays.

Shapes are written with C = completion tokens, P = prompt tokens. Ragged data is flat, with offsets:
the entries of position ``i`` are ``[offsets[i], offsets[i + 1])``, so there is no Python object per token.

Records that hold arrays compare by identity with ``==``, because arrays have no single answer; ``equals`` compares
their contents.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamo_tito._engine_info import EngineInfo

Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
LogprobArray: TypeAlias = NDArray[np.float64] | NDArray[np.float32]
ExpertsArray: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16] | NDArray[np.int32]

Wire: TypeAlias = Literal[
    "dynamo_chat",
    "dynamo_completions",
    "vllm_generate",
    "vllm_chat",
    "vllm_completions",
    "sglang_generate",
    "sglang_chat",
]
"""Which endpoint answered, and with it where the fields are."""

ExpertsMode: TypeAlias = Literal["int32", "native", "skip"]
"""Routed experts widened to int32, as wide as on the wire, or left out unread."""

FinalRow: TypeAlias = Literal["omitted", "present"]
"""Whether routed experts have a row for the last sampled token. It has no forward pass, so engines omit it."""

LogprobsDtype: TypeAlias = Literal["float64", "float32"]
"""The type of log-probabilities: as read, or the nearest float32, in half the memory."""

MissingLogprob: TypeAlias = Literal["raise", "nan"]
"""What to do where an engine says that it has no log-probability."""

WireDtype: TypeAlias = Literal["uint8", "uint16", "int16", "int32"]
"""How wide an expert id is on the wire."""


class _Record:
    """Comparison and display for records of arrays."""

    __slots__ = ()

    def equals(self, other: object) -> bool:
        """Whether ``other`` is of the same type with the same contents: dtypes, shapes, values; NaN equals NaN."""
        return type(self) is type(other) and all(
            _equal(getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
            if field.compare
        )

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
        parts = ((field.name, getattr(self, field.name)) for field in fields if field.repr)
        shown = ", ".join(f"{name}={_brief(value)}" for name, value in parts if value is not None)
        return f"{type(self).__name__}({shown})"


class _Ragged:
    """Positions of a flat record as a sequence of views."""

    __slots__ = ()

    offsets: Int64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _span(self, position: SupportsIndex) -> slice:
        count = len(self)
        index = operator.index(position)
        if not -count <= index < count:
            raise IndexError(f"position {index} is out of range for {count} positions")
        index %= count
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TopLogprobs(_Ragged, _Record):
    """The alternatives that the engine reported at each position, in wire order.

    ``len(top)`` is the number of positions, ``top[i]`` the pair (token ids, log-probabilities) of position ``i``,
    as views.

    Attributes:
        token_ids: int32 [N], N entries over all positions.
        logprobs: float64 or float32 (``logprobs_dtype``) [N], natural logarithms; NaN where the engine has no
            log-probability for an entry.
        offsets: int64 [positions + 1], from 0 to N.
    """

    token_ids: Int32Array
    logprobs: LogprobArray
    offsets: Int64Array

    def __getitem__(self, position: SupportsIndex) -> tuple[Int32Array, LogprobArray]:
        span = self._span(position)
        return self.token_ids[span], self.logprobs[span]

    def __iter__(self) -> Iterator[tuple[Int32Array, LogprobArray]]:
        return (self[position] for position in range(len(self)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PromptLogprobs(_Record):
    """How the engine scored the prompt.

    Attributes:
        logprobs: float64 or float32 (``logprobs_dtype``) [P], of the actual prompt tokens, natural logarithms; NaN
            where the engine could not score (position 0 has no past), and before the first position that was asked for.
        top: every entry of every position that was asked for, highest first, ties by id, NaN last; P positions. The
            order is that of the values as float64.
    """

    logprobs: LogprobArray
    top: TopLogprobs


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far two scorings of the same sampled tokens are apart, with d = sample - scored per token.

    All means are over ``count`` tokens; where that is 0 they are NaN, and so is ``max_abs``.

    Attributes:
        count: sampled tokens that were compared.
        skipped: sampled tokens that were left out because one side is NaN; 0 unless that was allowed.
        mean: of d, in nats; an unbiased estimate of the Kullback-Leibler divergence of the sampler from the scorer.
        mean_abs: of abs(d).
        max_abs: the largest abs(d).
        k3: the mean of exp(-d) - 1 + d: the same divergence estimated with less variance, and never negative.
    """

    count: int
    skipped: int
    mean: float
    mean_abs: float
    max_abs: float
    k3: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RoutedExperts(_Record):
    """Which experts the router chose, per position, layer and slot.

    Attributes:
        array: expert ids [rows, layers, top_k]; int32, or as wide as on the wire with ``experts="native"``.
            Layers are all decoder layers: a dense one is a layer of zeros.
        start: the position in the sequence (prompt and completion) of row 0.
        wire_dtype: the width on the wire: ``"uint8"``, ``"uint16"``, ``"int16"`` or ``"int32"``.
        complete: False where rows are missing: an aborted completion brought fewer than its tokens call for (or
            rows of -1, no route, at the end), or they begin behind the start that was asked for.
        trimmed: rows in front of ``start`` that the server sent although they were not asked for. They are not in
            ``array``. ``equals`` does not compare this number, because it describes the server.
    """

    array: ExpertsArray
    start: int
    wire_dtype: WireDtype
    complete: bool
    trimmed: int = dataclasses.field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexerTopk(_Record):
    """What the indexer of a sparse attention chose, per position, indexer layer and slot, for replay in training.

    Attributes:
        array: int32 [rows, indexer layers, index_topk], as the engine's kernel wrote them (SGLang 0.5.23,
            ``state_capturer/indexer_topk.py``); -1 is a slot that was left empty. Whether an index counts positions of
            the sequence depends on the engine's attention backend, and is not judged.
        start: the position in the sequence (prompt and completion) of row 0.
        complete: False where rows are missing, as in :class:`RoutedExperts`.
    """

    array: Int32Array
    start: int
    complete: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SamplingMask(_Ragged, _Record):
    """The vocabulary that survived top-k, top-p and min-p at each completion token.

    ``len(mask)`` is C, ``mask[i]`` the ids that could be sampled at position ``i``, as a view.

    Attributes:
        token_ids: int32 [N], N ids over all positions.
        offsets: int64 [C + 1], from 0 to N.
    """

    token_ids: Int32Array
    offsets: Int64Array

    def __getitem__(self, position: SupportsIndex) -> Int32Array:
        return self.token_ids[self._span(position)]

    def __iter__(self) -> Iterator[Int32Array]:
        return (self[position] for position in range(len(self)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamDelta(_Record):
    """What a part of a stream brought to one choice: n new tokens, its end, or both.

    Attributes:
        index: which of the request's choices this is.
        start: the position in the completion of the first new token.
        token_ids: int32 [n].
        logprobs: float64 or float32 (``logprobs_dtype``) [n], natural logarithms; None where not every token of the
            choice so far has one. On Dynamo they are rounded to float32, with NaN for a value that is no
            log-probability: the end brings the engine's. A value that float32 does not have is NaN; the end refuses it.
        top_logprobs: the alternatives at each of the n positions; None where they carry text only, and before the
            first.
        finish_reason: why the choice ended, once it has; as in :class:`Completion`.
    """

    index: int
    start: int
    token_ids: Int32Array
    logprobs: LogprobArray | None
    top_logprobs: TopLogprobs | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Timing(_Record):
    """When the tokens of a streamed completion were read, by the client's clock.

    Attributes:
        arrivals: float64 [C], seconds from when the request was handed to its connection.
    """

    arrivals: Float64Array

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token; None without tokens."""
        return float(self.arrivals[0]) if len(self.arrivals) else None

    @property
    def between_tokens(self) -> Float64Array:
        """Float64 [C - 1], seconds from each token to the next; 0 within one chunk."""
        return np.diff(self.arrivals)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Completion(_Record):
    """One sampled completion. No array aliases the body it came from.

    Attributes:
        token_ids: int32 [C], what the engine sampled.
        logprobs: float64 or float32 (``logprobs_dtype``) [C], natural logarithms, of the sampled tokens; None only with
            ``require_logprobs=False`` and no log-probabilities in the body.
        top_logprobs: the alternatives at each position; None where the entries carry text only.
        prompt_token_ids: int32 [P], where the server echoes them.
        prompt_logprobs: how the engine scored the prompt.
        routed_experts: which experts the router chose.
        sampling_mask: the vocabulary that survived at each position.
        finish_reason: why it ended, in one spelling for all engines: ``"stop"``, ``"length"``, ``"abort"``, ...
        finish_reason_raw: the same as the wire said it.
        stop_reason: the stop string or token id that ended it.
        aborted: whether it was cut off by an abort or a cancellation; None where the wire cannot tell
            (Dynamo's chat and completions without ``detailed_finish_reason``).
        request_id: the server's id of the request.
        index: which of the request's choices this is.
        usage: the server's own counts, as on the wire.
        weight_versions: which weights sampled which tokens, as on the wire:
            ``[{"version": "step_7", "start": 0, "end": 2}]``, half-open spans that tile the C tokens; or SGLang's label
            without positions, ``[{"version": "step_7"}]``, which was in force when the answer was written.
        sources: which channel each array came from, such as
            ``{"token_ids": "nvext.engine_data.completion_token_ids"}``. What was left out is named with the reason:
            ``prompt_logprobs`` without prompt ids, ``routed_experts`` and ``indexer_topk`` with ``experts="skip"``,
            ``logprobs_echo``, entries beside the chosen log-probabilities that are not one for each token or cannot be
            read, and ``engine``, values of another type than :class:`EngineInfo` has.
        sampling_logprobs: float64 or float32 (``logprobs_dtype``) [C], natural logarithms: the sampler's own, of
            the sampled tokens after temperature and the cuts of the sampling mask (SGLang with
            ``return_sampling_mask``).
        indexer_topk: what the indexer of a sparse attention chose (SGLang with ``return_indexer_topk``).
        prompt_token_id_logprobs: float32 [rows, ids], of the ids that the request gave as ``prompt_logprob_token_ids``
            (vLLM 0.32 and 0.33, ``outputs.py``). The last row predicts the prompt's last token, and row ``-1 - i`` the
            token i before it, so row 0 that of position P - rows. Minus infinity stands in columns that were padded.
        engine: what the server tells of how it ran the request; None where it tells nothing.
        timing: when a client read each token of a stream; None otherwise.
    """

    token_ids: Int32Array
    logprobs: LogprobArray | None
    top_logprobs: TopLogprobs | None
    prompt_token_ids: Int32Array | None
    prompt_logprobs: PromptLogprobs | None
    routed_experts: RoutedExperts | None
    sampling_mask: SamplingMask | None
    finish_reason: str | None
    finish_reason_raw: str | None
    stop_reason: int | str | None
    aborted: bool | None
    request_id: str | None
    index: int
    usage: dict[str, Any] | None
    weight_versions: list[dict[str, Any]] | None
    sources: Mapping[str, str]
    sampling_logprobs: LogprobArray | None = None
    indexer_topk: IndexerTopk | None = None
    prompt_token_id_logprobs: Float32Array | None = None
    engine: EngineInfo | None = None
    timing: Timing | None = None

    def __post_init__(self) -> None:
        if type(self.sources) is dict:
            object.__setattr__(self, "sources", MappingProxyType(self.sources))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy does not pickle; __post_init__ makes it again.
        values = (getattr(self, name) for name in _names(self))
        return type(self), tuple(dict(value) if type(value) is MappingProxyType else value for value in values)

    @property
    def complete(self) -> bool:
        """False where rows of routed experts or of an indexer are missing: at the end after an abort, or in front.

        False too where a stream was abandoned before the choice ended: then no server said ``"abort"``.
        """
        captured = [rows for rows in (self.routed_experts, self.indexer_topk) if rows is not None]
        if not captured:
            return self.finish_reason_raw is not None or self.finish_reason != "abort"
        return all(rows.complete for rows in captured)


def _names(record: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def _equal(one: object, other: object) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        nan = one.dtype.kind == "f"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=nan)
    if isinstance(one, _Record):
        return one.equals(other)
    return type(one) is type(other) and one == other


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, MappingProxyType):
        return repr(dict(value))
    return repr(value)
