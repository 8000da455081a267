"""A conversation as training data: aligned arrays that are sliced, truncated and saved together or not at all."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .routing import Rows
from .segments import WeightSpan, age_by

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike, NDArray

    from dynamo_tito._types import Int32Array, LogprobArray

    from .routing import Chunk

_FORMAT = "dynamo-tito training sample 1"


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """A turn's place in a sample: [start, completion_start) is prompt, [completion_start, end) was sampled.

    Attributes:
        start, completion_start, end: positions in the sample.
        finish_reason: why the completion ended; of the whole one, also where the sample has only a part of it.
        stop_reason: the stop string or token id that ended it.
        aborted: whether it was cut off; None where the wire could not tell.
        request_id: the server's id.
        weight_versions: which weights sampled which tokens; see ``WeightSpan.measured`` for a label without positions.
    """

    start: int
    completion_start: int
    end: int
    finish_reason: str | None
    stop_reason: int | str | None
    aborted: bool | None
    request_id: str | None
    weight_versions: tuple[WeightSpan, ...]


class TrainingSample:
    """One token sequence with all that belongs to it; N tokens.

    ``len(sample)`` is N, ``sample[a:b]`` the part from token a to the one before b, as views. Pickle protocol 5 hands
    its arrays out of band: some hundred bytes remain, about 130 of them for each turn, and unpickling copies nothing.

    Attributes:
        token_ids: int32 [N], exactly what the engine saw and sampled.
        mask: bool [N], True where the model sampled the token.
        logprobs: float64 [N], natural logarithms, at sampling time; NaN where not sampled, or where the engine gave
            none. float32 [N] where those of every turn are float32, as of a client with ``logprobs_dtype="float32"``.
        turns: the turns, first to last.
        shared: tokens from the beginning on that an earlier sample of the same rollout has, too.
    """

    __slots__ = ("_rows", "logprobs", "mask", "shared", "token_ids", "turns")

    token_ids: Int32Array
    mask: NDArray[np.bool_]
    logprobs: LogprobArray
    turns: tuple[TurnSpan, ...]
    shared: int

    def __init__(
        self,
        token_ids: Int32Array,
        mask: NDArray[np.bool_],
        logprobs: LogprobArray,
        rows: Rows | None,
        turns: tuple[TurnSpan, ...] = (),
        shared: int = 0,
    ) -> None:
        lengths = {len(token_ids), len(mask), len(logprobs), len(token_ids) if rows is None else len(rows)}
        if len(lengths) > 1:
            raise ValueError(f"parts of one sample differ in length: {sorted(lengths)}")
        self.token_ids = token_ids
        self.mask = mask
        self.logprobs = logprobs
        self.turns = turns
        self.shared = shared
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainingSample, (self.token_ids, self.mask, self.logprobs, self._rows, self.turns, self.shared)

    @property
    def rows(self) -> Rows | None:
        """The routing in the pieces in which it came, as batches take it; ``routed_experts`` is the array."""
        return self._rows

    @property
    def weight_versions(self) -> tuple[WeightSpan, ...]:
        """Which weights sampled which tokens, first to last; spans do not overlap.

        A sampled token in no span is one of which the server said no version. See ``WeightSpan.measured``.
        """
        return tuple(span for turn in self.turns for span in turn.weight_versions)

    def version_indices(self) -> tuple[tuple[str, ...], Int32Array]:
        """The same per token.

        Returns:
            The versions in the order in which they first sampled, and int32 [N]: which of them sampled the token; -1
            where the token was not sampled, or the server said no version.
        """
        versions: dict[str, int] = {}
        indices = np.full(len(self), -1, np.int32)
        for span in self.weight_versions:
            indices[span.start : span.end] = versions.setdefault(span.version, len(versions))
        return tuple(versions), indices

    def mask_off_policy(
        self,
        *,
        older_than: str,
        order: Callable[[str], Any] | Sequence[str] | None = None,
        unmeasured: Literal["mask", "trust"] = "mask",
    ) -> TrainingSample:
        """The same sample, with ``mask`` False also where older weights sampled the token.

        A token of which it is not known which weights sampled it is masked: one without a version, and one under a bare
        label (``WeightSpan.measured`` is False), which names the version when the answer was written, not when the
        token was sampled.

        Args:
            older_than: the oldest version to keep.
            order: the versions from oldest to newest, or a function that gives what to compare versions by. None where
                all are one text with a whole number behind it, such as ``"step_7"`` or ``"12"``: the number counts.
            unmeasured: ``"trust"`` takes a bare label for the version of every token of its answer.

        Returns:
            A sample that shares all arrays but ``mask``.

        Raises:
            ValueError: a version that has no place in the order.
        """
        if unmeasured not in ("mask", "trust"):
            raise ValueError(f"unmeasured must be 'mask' or 'trust', not {unmeasured!r}")
        age = age_by(order, older_than)
        oldest = age(older_than)
        kept = np.zeros(len(self), np.bool_)
        for span in self.weight_versions:
            if (span.measured or unmeasured == "trust") and not age(span.version) < oldest:
                kept[span.start : span.end] = True
        return TrainingSample(self.token_ids, self.mask & kept, self.logprobs, self._rows, self.turns, self.shared)

    @property
    def routed_experts(self) -> Chunk | None:
        """[N, layers, top_k] at wire width, or None; joined on first use and kept."""
        return None if self._rows is None else self._rows.array()

    def routed_experts_as(self, dtype: DTypeLike) -> Chunk | None:
        """A copy of another width, such as int32."""
        return None if self._rows is None else self._rows.copy_as(dtype)

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, span: slice) -> TrainingSample:
        if getattr(span, "step", 0) not in (None, 1):
            raise TypeError("a sample is sliced from one token to another, in steps of 1")
        first, last, _ = span.indices(len(self))
        last = max(first, last)
        return TrainingSample(
            self.token_ids[first:last],
            self.mask[first:last],
            self.logprobs[first:last],
            None if self._rows is None else self._rows[first:last],
            tuple(cut(turn, first, last) for turn in self.turns if max(turn.start, first) < min(turn.end, last)),
            min(max(self.shared - first, 0), last - first),
        )

    def truncate(self, max_tokens: int) -> TrainingSample:
        """The first ``max_tokens`` tokens, with all that belongs to them."""
        if max_tokens < 0:
            raise ValueError(f"max_tokens must be 0 or more, not {max_tokens}")
        return self[:max_tokens]

    def equals(self, other: object) -> bool:
        """Whether ``other`` is a sample of the same values and dtypes; NaN equals NaN."""
        return (
            isinstance(other, TrainingSample)
            and self.turns == other.turns
            and self.shared == other.shared
            and all(_same(getattr(self, name), getattr(other, name)) for name in _NAMES)
        )

    def __repr__(self) -> str:
        rows = "None" if self._rows is None else f"{self._rows.dtype}{list(self._rows.shape)}"
        return f"TrainingSample({len(self)} tokens, {int(self.mask.sum())} sampled, routed_experts={rows})"

    def to_lists(self) -> dict[str, Any]:
        """The arrays as lists."""
        experts = self.routed_experts
        return {
            "token_ids": self.token_ids.tolist(),
            "mask": self.mask.tolist(),
            "logprobs": self.logprobs.tolist(),
            "routed_experts": None if experts is None else experts.tolist(),
        }

    def to_torch(self) -> dict[str, Any]:
        """The arrays as CPU tensors that share their memory; routed experts at wire width, which moves fastest.

        An array that is read-only is copied: torch has no tensor that cannot be written.
        """
        return {name: None if array is None else tensor_of(array) for name, array in self._arrays().items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file (extra ``dynamo-tito[safetensors]``)."""
        turns = json.dumps([dataclasses.asdict(turn) for turn in self.turns], separators=(",", ":"))
        contiguous = {name: np.ascontiguousarray(array) for name, array in self._arrays().items() if array is not None}
        import_module("safetensors.numpy").save_file(
            contiguous, path, metadata={"format": _FORMAT, "turns": turns, "shared": str(self.shared)}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingSample:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: another file, or one whose parts do not fit together.
        """
        with import_module("safetensors").safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a {_FORMAT}")
        for name, dtypes in _DTYPES.items():
            if name not in arrays or arrays[name].dtype not in dtypes or arrays[name].ndim != 1:
                raise ValueError(f"{path} holds no {name} of dtype {' or '.join(dtypes)} with one dimension")
        experts = arrays.get("routed_experts")
        if experts is not None and experts.ndim != 3:
            raise ValueError(f"{path}: routed_experts must be [N, layers, top_k]")
        turns = tuple(_turn(fields) for fields in json.loads(metadata["turns"]))
        rows = None if experts is None else Rows([experts])
        ids, mask, logprobs = (arrays[name] for name in _NAMES[:3])
        return cls(ids, mask, logprobs, rows, turns, int(metadata["shared"]))

    def _arrays(self) -> dict[str, NDArray[Any] | None]:
        return {name: getattr(self, name) for name in _NAMES}


_DTYPES = {"token_ids": ("int32",), "mask": ("bool",), "logprobs": ("float64", "float32")}
_NAMES = ("token_ids", "mask", "logprobs", "routed_experts")


def _same(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def tensor_of(array: NDArray[Any]) -> Any:
    """A CPU tensor that shares the array's memory; of a read-only array a copy."""
    return import_module("torch").from_numpy(array if array.flags.writeable else array.copy())


def cut(turn: TurnSpan, first: int, last: int) -> TurnSpan:
    """A turn's part of [first, last), in positions counted from ``first``."""

    def moved(position: int) -> int:
        return min(max(position, first), last) - first

    versions = (
        dataclasses.replace(span, start=moved(span.start), end=moved(span.end))
        for span in turn.weight_versions
        if max(span.start, first) < min(span.end, last)
    )
    return dataclasses.replace(
        turn,
        start=moved(turn.start),
        completion_start=moved(turn.completion_start),
        end=moved(turn.end),
        weight_versions=tuple(versions),
    )


def _turn(fields: dict[str, Any]) -> TurnSpan:
    versions = tuple(WeightSpan(**span) for span in fields.pop("weight_versions"))
    return TurnSpan(**fields, weight_versions=versions)
