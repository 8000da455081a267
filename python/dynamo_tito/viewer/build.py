"""From records to a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dynamo_tito._native import divergence
from dynamo_tito._routing_report import routing_report
from dynamo_tito._types import Completion, PromptLogprobs
from dynamo_tito.rollout import Rollout
from dynamo_tito.rollout.sample import TrainingSample

from .columns import Column, pack
from .compare import Comparison, compare
from .page import Page, Section
from .texts import ids_of, texts_of
from .track import Routing, Track, Viewable, track_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dynamo_tito._types import FinalRow, Int32Array, LogprobArray

Scoring: TypeAlias = "Viewable | PromptLogprobs | NDArray[np.floating[Any]]"
"""What a sequence is compared with."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of :func:`view` that say how to read a record."""

    prompt_len: int | None
    prompt_token_ids: Sequence[int] | Int32Array | None
    final_row: FinalRow
    num_experts: int | None
    dense_layers: Sequence[int]

    def track(self, record: Viewable) -> Track:
        return track_of(
            record, prompt_len=self.prompt_len, prompt_token_ids=self.prompt_token_ids, final_row=self.final_row
        )


def view(
    data: Viewable | Rollout | Iterable[Viewable],
    /,
    *,
    against: Scoring | Iterable[Scoring] | None = None,
    tokenizer: Any = None,
    title: str | None = None,
    names: Sequence[str] | None = None,
    prompt_len: int | None = None,
    prompt_token_ids: Sequence[int] | Int32Array | None = None,
    final_row: FinalRow = "omitted",
    num_experts: int | None = None,
    dense_layers: Sequence[int] = (),
) -> Page:
    """A page that shows tokens, log-probabilities and routed experts, and needs nothing but a browser.

    A notebook shows the page in place. ``page.save(path)`` writes the file, ``page.html`` is its text. The same
    arguments give the same bytes.

    Args:
        data: a completion, a training sample, a rollout (all its branches), or a sequence of completions and samples.
        against: another scoring of the same tokens: a completion, a sample, what ``score`` returns, or an array of
            log-probabilities, one for each token or for each sampled one. For a sequence: one for each.
        tokenizer: for the texts: a path of a ``tokenizer.json``, a name for the package ``tokenizers``, or an object
            with ``decode``. Without one the page shows ids.
        title: of the page.
        names: of the records, one for each.
        prompt_len: tokens of a completion's prompt, where the server echoes none.
        prompt_token_ids: the ids of that prompt.
        final_row: as in ``decode``, for completions whose prompt is not known.
        num_experts: experts of a layer; None: as many as the largest id tells.
        dense_layers: layers without a router, which are zero by nature.

    Raises:
        TypeError: data of another type.
        ValueError: routed experts that cannot be placed, or an ``against`` with no token in common.
    """
    asked = _Asked(prompt_len, prompt_token_ids, final_row, num_experts, dense_layers)
    records, others, drifts = _paired(data, against)
    if names is not None and len(names) != len(records):
        raise ValueError(f"{len(names)} names for {len(records)} records")
    tracks = [asked.track(record) for record in records]
    compared = [
        None if other is None else compare(track, _scoring(other, asked))
        for track, other in zip(tracks, others, strict=True)
    ]
    sections = [
        _section(name, track, comparison, drifts, asked)
        for name, track, comparison in zip(names or _numbered(len(tracks)), tracks, compared, strict=True)
    ]
    ids = ids_of(chain.from_iterable(map(_shown_ids, tracks)))
    texts = texts_of(ids, tokenizer)
    return Page(
        title or (sections[0].name if len(sections) == 1 else f"{len(sections)} sequences"), sections, ids, texts
    )


def _numbered(count: int) -> list[str]:
    return ["sequence"] if count == 1 else [f"sequence {number}" for number in range(count)]


def _paired(data: Any, against: Any) -> tuple[list[Viewable], list[Scoring | None], list[str]]:
    """The records, what each is compared with, and the drifts of a rollout."""
    drifts: list[str] = []
    if isinstance(data, Rollout):
        drifts = [
            f"Drift ({drift.kind}) at token {drift.token}, message {drift.message}: {drift.action}."
            for drift in data.drifts
        ]
        records: list[Viewable] = list(data.samples())
        single = len(records) == 1
    elif isinstance(data, (Completion, TrainingSample)):
        records, single = [data], True
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        records, single = list(data), False
    else:
        raise TypeError(f"view takes completions, samples, a rollout or a sequence of them, not {type(data).__name__}")
    if not records:
        raise ValueError("there is nothing to view: no completion and no sample")
    if against is None:
        return records, [None] * len(records), drifts
    others = [against] if single and not isinstance(against, (list, tuple)) else list(against)
    if len(others) != len(records):
        raise ValueError(f"against has {len(others)} scorings for {len(records)} sequences")
    return records, others, drifts


def _scoring(other: Scoring, asked: _Asked) -> Track | PromptLogprobs | NDArray[np.floating[Any]]:
    return asked.track(other) if isinstance(other, (Completion, TrainingSample)) else other


def _shown_ids(track: Track) -> Iterator[Int32Array]:
    yield track.token_ids
    if track.top is not None:
        yield track.top.token_ids


def _section(name: str, track: Track, comparison: Comparison | None, drifts: list[str], asked: _Asked) -> Section:
    """One sequence of the page: what its tokens need first, what can come later, and what is said of it."""
    versions, version = track.versions
    first = [pack("ids", track.token_ids), pack("mask", track.mask), pack("logprobs", track.logprobs)]
    if versions:
        first.append(pack("versions", version))
    if comparison is not None:
        first.append(pack("scored", comparison.logprobs))
    other = None if comparison is None else comparison.routing
    said: dict[str, Any] = {
        "name": name,
        "kind": track.kind,
        "length": len(track),
        "sampled": int(track.mask.sum()),
        "mean": _mean(track.logprobs[track.mask]),
        "turns": [[turn.start, turn.completion_start, turn.end, turn.finish] for turn in track.turns],
        "versions": versions,
        "shared": track.shared,
        "facts": track.facts,
        "drifts": drifts,
        "notes": [] if comparison is None else comparison.notes,
        "findings": _findings(track.routing, asked),
        "compared": None if comparison is None else _divergence(track, comparison),
        "experts": _count(track.routing, other, asked.num_experts),
        "starts": {"experts": _start(track.routing), "experts2": _start(other)},
    }
    return Section(name, said, first, list(_later(track, other)))


def _later(track: Track, other: Routing | None) -> Iterator[Column]:
    if track.vocabulary is not None:
        yield pack("vocabulary", track.vocabulary)
    if track.arrivals is not None:
        yield pack("arrivals", track.arrivals)
    if track.top is not None:
        yield pack("top_counts", np.diff(track.top.offsets))
        yield pack("top_ids", track.top.token_ids)
        yield pack("top_logprobs", track.top.logprobs)
    if track.routing is not None:
        yield pack("experts", track.routing.array)
    if other is not None:
        yield pack("experts2", other.array)


def _start(routing: Routing | None) -> int:
    return 0 if routing is None else routing.start


def _count(routing: Routing | None, other: Routing | None, num_experts: int | None) -> int:
    """Experts of a layer: as given, and at least as many as the largest id tells."""
    found = [int(one.array.max()) + 1 for one in (routing, other) if one is not None and one.array.size]
    return max([num_experts or 1, *found])


def _findings(routing: Routing | None, asked: _Asked) -> list[str]:
    if routing is None:
        return []
    report = routing_report(routing.array, num_experts=asked.num_experts, dense_layers=asked.dense_layers)
    behind = f" (row 0 is position {routing.start})" if routing.start else ""
    return [finding + behind for finding in report.findings]


def _divergence(track: Track, comparison: Comparison) -> dict[str, float | int | None]:
    found = divergence(track.logprobs, comparison.logprobs, track.mask, missing_logprob="skip")
    return {"count": found.count, "k3": found.k3 if np.isfinite(found.k3) else None}


def _mean(values: LogprobArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
