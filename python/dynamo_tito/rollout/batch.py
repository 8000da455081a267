"""Training samples end to end: one array for each column of the batch, and offsets that say where a sample begins."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from dynamo_tito._types import Int32Array, Int64Array, LogprobArray

from .columns import COLUMNS, check, joined, joined_rows, offsets_of, table_of
from .routing import Rows
from .sample import TrainingSample, TurnSpan, tensor_of
from .segments import WeightSpan, logprobs_dtype

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .routing import Chunk

_FORMAT = "dynamo-tito sample batch 1"


class SampleBatch(Sequence[TrainingSample]):
    """S samples as flat arrays: N tokens, R rows of routing, U turns and V spans of weight versions over all samples.

    ``len(batch)`` is S, ``batch[i]`` a sample and ``batch[a:b]`` a batch, both of views. Pickle protocol 5 hands every
    array out of band: some hundred bytes remain, and unpickling copies nothing.

    Attributes:
        token_ids: int32 [N]; those of sample i are ``[offsets[i], offsets[i + 1])``, likewise the next two.
        mask: bool [N], True where the model sampled the token.
        logprobs: float64, or float32 where it is that in every sample, [N], natural logarithms; NaN where not sampled,
            or where the engine gave none.
        offsets: int64 [S + 1], from 0 to N.
        routed_experts: [R, layers, top_k] at wire width (the widest of the samples); None where no sample has any.
        routing_offsets: int64 [S + 1], from 0 to R; a sample has a row for each of its tokens, or none.
        shared: int64 [S], tokens from the beginning on that an earlier sample of the same rollout has, too.
        turns: int64 [U, 3]: start, completion start and end of each turn, in positions of its sample.
        turn_offsets: int64 [S + 1], from 0 to U.
        spans: int64 [V, 2]: the sampled tokens [start, end), in positions of their sample, that one version sampled.
        span_versions: int32 [V], indices into :attr:`versions`.
        span_measured: bool [V], as :attr:`dynamo_tito.rollout.WeightSpan.measured`.
        span_offsets: int64 [U + 1], from 0 to V, by turn.
        notes: uint8, JSON in UTF-8: ``{"versions": [...], "turns": [[finish_reason, stop_reason, aborted, request_id],
            ...]}``.
    """

    __slots__ = ("_read", *COLUMNS)

    token_ids: Int32Array
    mask: NDArray[np.bool_]
    logprobs: LogprobArray
    offsets: Int64Array
    routed_experts: Chunk | None
    routing_offsets: Int64Array
    shared: Int64Array
    turns: Int64Array
    turn_offsets: Int64Array
    spans: Int64Array
    span_versions: Int32Array
    span_measured: NDArray[np.bool_]
    span_offsets: Int64Array
    notes: NDArray[np.uint8]

    def __init__(self, columns: Mapping[str, Any]) -> None:
        """Take the columns that :meth:`to_numpy` gives, as they are.

        Raises:
            ValueError: a column is missing or unknown, has another dtype or shape, or does not fit the others.
        """
        check(columns)
        for name in COLUMNS:
            setattr(self, name, columns.get(name))
        self._read: dict[str, Any] | None = None

    @classmethod
    def from_samples(cls, samples: Iterable[TrainingSample]) -> SampleBatch:
        """Lay samples end to end. Each array is copied once; those of a single sample are not copied.

        Raises:
            RoutedExpertsError: kind ``"shape"``: samples differ in layers or experts per token.
        """
        given = list(samples)
        turns = [turn for sample in given for turn in sample.turns]
        spans = [span for turn in turns for span in turn.weight_versions]
        versions = {version: number for number, version in enumerate(dict.fromkeys(span.version for span in spans))}
        held = [sample.rows for sample in given]
        logprobs = [sample.logprobs for sample in given]
        notes = {
            "versions": list(versions),
            "turns": [[turn.finish_reason, turn.stop_reason, turn.aborted, turn.request_id] for turn in turns],
        }
        return cls(
            {
                "token_ids": joined([sample.token_ids for sample in given], np.int32),
                "mask": joined([sample.mask for sample in given], np.bool_),
                "logprobs": joined(logprobs, logprobs_dtype(logprobs) or np.float64),
                "offsets": offsets_of(map(len, given)),
                "routed_experts": joined_rows([rows for rows in held if rows is not None]),
                "routing_offsets": offsets_of(0 if rows is None else len(rows) for rows in held),
                "shared": np.array([sample.shared for sample in given], np.int64),
                "turns": table_of(((turn.start, turn.completion_start, turn.end) for turn in turns), 3),
                "turn_offsets": offsets_of(len(sample.turns) for sample in given),
                "spans": table_of(((span.start, span.end) for span in spans), 2),
                "span_versions": np.array([versions[span.version] for span in spans], np.int32),
                "span_measured": np.array([span.measured for span in spans], np.bool_),
                "span_offsets": offsets_of(len(turn.weight_versions) for turn in turns),
                "notes": np.frombuffer(json.dumps(notes, separators=(",", ":")).encode(), np.uint8),
            }
        )

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of weights that sampled, each once, in the order in which they first appear."""
        return tuple(self._notes()["versions"])

    def version_indices(self) -> Int32Array:
        """Int32 [N]: which of :attr:`versions` sampled each token; -1 where not sampled, or no version is known."""
        indices = np.full(len(self.token_ids), -1, np.int32)
        turn_of = np.repeat(np.arange(len(self.turns)), np.diff(self.span_offsets))
        sample_of = np.repeat(np.arange(len(self)), np.diff(self.turn_offsets))
        first = self.offsets[:-1][sample_of][turn_of]
        for version, start, end in zip(
            self.span_versions.tolist(),
            (first + self.spans[:, 0]).tolist(),
            (first + self.spans[:, 1]).tolist(),
            strict=True,
        ):
            indices[start:end] = version
        return indices

    def __len__(self) -> int:
        return len(self.shared)

    @overload
    def __getitem__(self, index: SupportsIndex) -> TrainingSample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleBatch: ...
    def __getitem__(self, index: SupportsIndex | slice) -> TrainingSample | SampleBatch:
        if isinstance(index, slice):
            return self._part(index)
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"sample {place} is out of range for {len(self)} samples")
        return self._sample(place % len(self))

    def __iter__(self) -> Iterator[TrainingSample]:
        return map(self._sample, range(len(self)))

    def equals(self, other: object) -> bool:
        """Whether ``other`` is a batch of equal samples; NaN equals NaN."""
        return (
            isinstance(other, SampleBatch)
            and len(self) == len(other)
            and all(one.equals(two) for one, two in zip(self, other, strict=True))
        )

    def __repr__(self) -> str:
        rows = "None" if self.routed_experts is None else f"{self.routed_experts.dtype}{[*self.routed_experts.shape]}"
        return f"SampleBatch({len(self)} samples, {len(self.token_ids)} tokens, routed_experts={rows})"

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleBatch, ({name: array for name, array in self.to_numpy().items() if array is not None},)

    def to_numpy(self) -> dict[str, NDArray[Any] | None]:
        """The columns by name, without a copy; ``SampleBatch(columns)`` is the batch again."""
        return {name: getattr(self, name) for name in COLUMNS}

    def to_torch(self) -> dict[str, Any]:
        """The columns as CPU tensors that share their memory; ``notes`` is left out.

        A column that is read-only, as one of a batch that was unpickled from bytes, is copied: torch has no tensor
        that cannot be written.
        """
        columns = {name: array for name, array in self.to_numpy().items() if name != "notes"}
        return {name: None if array is None else tensor_of(array) for name, array in columns.items()}

    def to_arrow(self) -> Any:
        """The batch as a ``pyarrow.Table``, one row a sample (extra ``dynamo-tito[arrow]``).

        Columns: ``token_ids`` large_list<int32>, ``mask`` large_list<bool>, ``logprobs`` large_list<double>
        or of float, ``routed_experts`` large_list<fixed_size_list<fixed_size_list<...>>> or absent, ``shared`` int64,
        and ``turns`` large_list<struct>, whose fields are those of :class:`dynamo_tito.rollout.TurnSpan`,
        ``stop_reason`` as JSON. Ids, log-probabilities and routing share the batch's memory.
        """
        return import_module("dynamo_tito.rollout.batch_arrow").to_arrow(self)

    @classmethod
    def from_arrow(cls, table: Any) -> SampleBatch:
        """Read what :meth:`to_arrow` gave, as a table or a record batch, also after Parquet, IPC or Ray Data.

        A column in one chunk without nulls is not copied, but for ``mask``.

        Raises:
            ValueError: a column is missing, has another type, or does not fit the others.
        """
        batch: SampleBatch = import_module("dynamo_tito.rollout.batch_arrow").from_arrow(table)
        return batch

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with every column (extra ``dynamo-tito[safetensors]``)."""
        columns = {name: np.ascontiguousarray(array) for name, array in self.to_numpy().items() if array is not None}
        import_module("safetensors.numpy").save_file(columns, path, metadata={"format": _FORMAT})

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> SampleBatch:
        """Read what :meth:`to_safetensors` wrote.

        Raises:
            ValueError: another file, or one whose columns do not fit together.
        """
        with import_module("safetensors").safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise ValueError(f"{path} is not a {_FORMAT}")
            return cls({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping

    def _notes(self) -> dict[str, Any]:
        if self._read is None:
            self._read = json.loads(self.notes.tobytes())
        return self._read

    def _sample(self, place: int) -> TrainingSample:
        tokens = slice(*self.offsets[place : place + 2].tolist())
        first, last = self.routing_offsets[place : place + 2].tolist()
        experts = self.routed_experts
        has_rows = experts is not None and last - first == tokens.stop - tokens.start
        return TrainingSample(
            self.token_ids[tokens],
            self.mask[tokens],
            self.logprobs[tokens],
            Rows([experts[first:last]]) if experts is not None and has_rows else None,
            self._turns(place),
            int(self.shared[place]),
        )

    def _turns(self, place: int) -> tuple[TurnSpan, ...]:
        first, last = self.turn_offsets[place : place + 2].tolist()
        if first == last:
            return ()
        notes = self._notes()
        ends = self.span_offsets[first : last + 1].tolist()
        low = ends[0]
        spans = [
            WeightSpan(notes["versions"][version], start, end, measured)
            for (start, end), version, measured in zip(
                self.spans[low : ends[-1]].tolist(),
                self.span_versions[low : ends[-1]].tolist(),
                self.span_measured[low : ends[-1]].tolist(),
                strict=True,
            )
        ]
        return tuple(
            TurnSpan(
                start,
                middle,
                end,
                reason,
                stop,
                aborted,
                request,
                tuple(spans[ends[turn] - low : ends[turn + 1] - low]),
            )
            for turn, ((start, middle, end), (reason, stop, aborted, request)) in enumerate(
                zip(self.turns[first:last].tolist(), notes["turns"][first:last], strict=True)
            )
        )

    def _part(self, index: slice) -> SampleBatch:
        first, last, step = index.indices(len(self))
        if step != 1:
            raise TypeError("a batch is sliced from one sample to another, in steps of 1")
        samples = slice(first, max(first, last))
        ends = slice(samples.start, samples.stop + 1)
        tokens, routing, turns = (
            slice(*getattr(self, name)[[samples.start, samples.stop]].tolist())
            for name in ("offsets", "routing_offsets", "turn_offsets")
        )
        spans = slice(*self.span_offsets[[turns.start, turns.stop]].tolist())
        said = self._notes()
        notes = {"versions": said["versions"], "turns": said["turns"][turns]}
        rows = None if self.routed_experts is None else self.routed_experts[routing]
        return SampleBatch(
            {
                **{name: getattr(self, name)[tokens] for name in ("token_ids", "mask", "logprobs")},
                **{name: getattr(self, name)[spans] for name in ("spans", "span_versions", "span_measured")},
                "offsets": self.offsets[ends] - tokens.start,
                "routed_experts": rows,
                "routing_offsets": self.routing_offsets[ends] - routing.start,
                "shared": self.shared[samples],
                "turns": self.turns[turns],
                "turn_offsets": self.turn_offsets[ends] - turns.start,
                "span_offsets": self.span_offsets[turns.start : turns.stop + 1] - spans.start,
                "notes": np.frombuffer(json.dumps(notes, separators=(",", ":")).encode(), np.uint8),
            }
        )


SampleBatch.__module__ = "dynamo_tito"  # where it is public, also in pickles
