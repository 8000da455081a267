from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from dynamo_tito._types import Completion, PromptLogprobs, RoutedExperts, SamplingMask, TopLogprobs

IDS = np.array([5, 6, 7], np.int32)
SCORES = np.array([-0.5, np.nan, -2.0])
OFFSETS = np.array([0, 2, 2, 3], np.int64)


def completion(**changes: Any) -> Completion:
    top = TopLogprobs(IDS, SCORES, OFFSETS)
    whole = Completion(
        IDS,
        SCORES,
        top,
        IDS,
        PromptLogprobs(SCORES, top),
        RoutedExperts(np.zeros((5, 2, 3), np.int32), 1, "uint8", True),
        SamplingMask(IDS, OFFSETS),
        "stop",
        "eos",
        151645,
        False,
        "r-1",
        0,
        {"prompt_tokens": 3},
        [{"version": "step_7", "start": 0, "end": 3}],
        {"token_ids": "choices[0].token_ids"},
    )
    return dataclasses.replace(whole, **changes)


RECORDS = [
    completion(),
    completion().top_logprobs,
    completion().prompt_logprobs,
    completion().routed_experts,
    completion().sampling_mask,
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
class TestRecords:
    def test_are_immutable(self, record: Any) -> None:
        for field in dataclasses.fields(record):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(record, field.name, None)

    def test_have_no_dict(self, record: Any) -> None:
        assert not hasattr(record, "__dict__")

    def test_survive_duplication(self, record: Any) -> None:
        for twin in (pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record)):
            assert type(twin) is type(record)
            assert twin.equals(record)
            assert repr(twin) == repr(record)

    def test_compare_by_identity(self, record: Any) -> None:
        assert record == record  # noqa: PLR0124  # arrays would make this ambiguous
        assert record != copy.copy(record)
        assert len({record, copy.copy(record)}) == 2

    def test_describe_every_field(self, record: Any) -> None:
        text = type(record).__doc__ or ""
        for field in dataclasses.fields(record):
            assert f"    {field.name}: " in text

    def test_show_shapes_and_not_values(self, record: Any) -> None:
        assert "array(" not in repr(record)
        assert len(repr(record)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": IDS[:2]},
        {"token_ids": IDS.astype(np.int64)},
        {"logprobs": None},
        {"logprobs": np.array([-0.5, np.nan, -2.5])},
        {"top_logprobs": None},
        {"top_logprobs": TopLogprobs(IDS, SCORES, np.array([0, 1, 2, 3]))},
        {"routed_experts": RoutedExperts(np.zeros((5, 2, 3), np.int32), 0, "uint8", True)},
        {"stop_reason": "151645"},
        {"aborted": None},
        {"index": 1},
        {"sources": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_equals_sees_every_difference(changes: dict[str, Any]) -> None:
    assert completion().equals(completion())
    assert not completion().equals(completion(**changes))
    assert not completion(**changes).equals(completion())


def test_equals_is_false_for_other_types() -> None:
    assert not completion().equals(None)
    assert not TopLogprobs(IDS, SCORES, OFFSETS).equals(SamplingMask(IDS, OFFSETS))


def test_repr_is_one_line_of_shapes() -> None:
    assert repr(completion().routed_experts) == (
        "RoutedExperts(array=int32[5, 2, 3], start=1, wire_dtype='uint8', complete=True)"
    )
    assert "token_ids=int32[3], logprobs=float64[3]" in repr(completion())
    assert "top_logprobs" not in repr(completion(top_logprobs=None))


class TestPositions:
    def test_of_top_logprobs_are_views(self) -> None:
        top = TopLogprobs(IDS, SCORES, OFFSETS)
        assert len(top) == 3
        ids, scores = top[0]
        assert ids.tolist() == [5, 6]
        assert np.shares_memory(ids, IDS)
        assert np.shares_memory(scores, SCORES)
        assert [len(ids) for ids, _ in top] == [2, 0, 1]
        assert top[-1][0].tolist() == top[np.int64(2)][0].tolist() == [7]

    def test_of_a_sampling_mask_are_views(self) -> None:
        mask = SamplingMask(IDS, OFFSETS)
        assert len(mask) == 3
        assert [ids.tolist() for ids in mask] == [[5, 6], [], [7]]
        assert np.shares_memory(mask[0], IDS)

    @pytest.mark.parametrize("position", [3, -4])
    def test_outside_are_refused(self, position: int) -> None:
        with pytest.raises(IndexError):
            TopLogprobs(IDS, SCORES, OFFSETS)[position]
        with pytest.raises(IndexError):
            SamplingMask(IDS, OFFSETS)[position]

    def test_of_nothing(self) -> None:
        mask = SamplingMask(IDS[:0], np.zeros(1, np.int64))
        assert len(mask) == 0
        assert list(mask) == []
        with pytest.raises(IndexError):
            mask[0]


def test_sources_are_read_only() -> None:
    sources = completion().sources
    with pytest.raises(TypeError):
        sources["token_ids"] = "elsewhere"  # type: ignore[index]
    assert dict(pickle.loads(pickle.dumps(completion())).sources) == dict(sources)


@pytest.mark.parametrize(
    ("routed", "complete"),
    [
        (None, True),
        (RoutedExperts(np.zeros((5, 2, 3), np.int32), 0, "uint8", True), True),
        (RoutedExperts(np.zeros((5, 2, 3), np.int32), 0, "uint8", False), False),
    ],
)
def test_complete_is_that_of_the_routed_experts(routed: RoutedExperts | None, complete: bool) -> None:
    assert completion(routed_experts=routed).complete is complete
