"""Training samples: slices, files and conversions keep everything aligned."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dynamo_tito as tito
from dynamo_tito.rollout import Rollout, TrainingSample, WeightSpan
from support.chat import ChatRenderer, ShortRenderer
from support.completions import completion, routed

END = 31_997


def made(*, experts: bool = True, tools: bool = False) -> Rollout:
    """Two turns of 3 and 4 tokens; weights changed within the second."""
    rollout = Rollout(ShortRenderer(), tools=[{"name": "look"}] if tools else None)
    total = 0
    for number, tokens in enumerate(([600, 701, END], [602, 603, 604, END])):
        held, total = max(total - 1, 0), len(rollout.prompt_ids([{"role": "user", "content": "a"}])) + len(tokens)
        versions = [{"version": f"v{number}", "start": 0, "end": 2}, {"version": "new", "start": 2, "end": len(tokens)}]
        rows = routed(total - 1 - held, held) if experts else None
        rollout.append(completion(tokens, rows, weight_versions=versions))
    return rollout


def test_what_a_sample_is() -> None:
    rollout = made()
    sample = rollout.sample()
    first, second = rollout.turns
    assert len(sample) == len(rollout.token_ids) == second.end
    assert sample.token_ids.dtype == np.int32
    assert sample.mask.dtype == np.bool_
    assert sample.logprobs.dtype == np.float64
    assert np.flatnonzero(sample.mask).tolist() == [
        *range(first.completion_start, first.end),
        *range(second.completion_start, second.end),
    ]
    assert sample.logprobs[sample.mask].tolist() == [-1.0, -2.0, -3.0, -1.0, -2.0, -3.0, -4.0]
    assert np.isnan(sample.logprobs[~sample.mask]).all()
    assert [(span.start, span.completion_start, span.end) for span in sample.turns] == [
        (turn.start, turn.completion_start, turn.end) for turn in (first, second)
    ]
    begin = second.completion_start
    assert sample.turns[1].weight_versions == (
        WeightSpan("v1", begin, begin + 2),
        WeightSpan("new", begin + 2, begin + 4),
    )
    assert repr(sample) == f"TrainingSample({len(sample)} tokens, 7 sampled, routed_experts=uint8[{len(sample)}, 2, 2])"


@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_log_probabilities_are_float32_where_those_of_every_turn_are(narrow: int, tmp_path: Path) -> None:
    rollout = Rollout(ShortRenderer())
    for turn in range(2):
        rollout.prompt_ids([{"role": "user", "content": "a"}])
        one = completion([600, END])
        assert one.logprobs is not None
        values = one.logprobs - 0.1
        rollout.append(dataclasses.replace(one, logprobs=values.astype(np.float32) if turn < narrow else values))
    sample = rollout.sample()
    assert sample.logprobs.dtype == (np.float32 if narrow == 2 else np.float64)
    expected = np.array([-1.1, -2.1] * 2)
    expected[: 2 * narrow] = expected[: 2 * narrow].astype(np.float32)
    assert np.array_equal(sample.logprobs[sample.mask], expected.astype(sample.logprobs.dtype))
    sample.save(tmp_path / "sample")
    assert TrainingSample.load(tmp_path / "sample").logprobs.dtype == sample.logprobs.dtype


def test_every_slice_is_aligned() -> None:
    sample = made().sample()
    whole = sample.routed_experts
    assert whole is not None
    for first in range(len(sample) + 1):
        for last in range(first, len(sample) + 1):
            part = made().sample()[first:last] if (first, last) == (3, 9) else sample[first:last]
            assert np.array_equal(part.token_ids, sample.token_ids[first:last])
            assert np.array_equal(part.mask, sample.mask[first:last])
            assert part.routed_experts is not None
            assert np.array_equal(part.routed_experts, whole[first:last])
            for span in part.turns:
                assert part.mask[span.completion_start : span.end].all()
                for weights in span.weight_versions:
                    assert span.completion_start <= weights.start < weights.end <= span.end
            covered = [n for span in part.turns for w in span.weight_versions for n in range(w.start, w.end)]
            assert covered == np.flatnonzero(part.mask).tolist()
    assert sample.truncate(5).equals(sample[:5])
    assert sample[2:][3:].equals(sample[5:])
    assert not sample[1:].equals(sample[:-1])
    with pytest.raises(TypeError, match="steps of 1"):
        sample[::2]
    with pytest.raises(TypeError):
        sample[1]  # type: ignore[index]
    with pytest.raises(ValueError, match="0 or more"):
        sample.truncate(-1)


@pytest.mark.parametrize("experts", [True, False])
def test_saved_and_loaded(tmp_path: Path, experts: bool) -> None:
    sample = made(experts=experts).sample()[2:-1]
    path = tmp_path / "sample.safetensors"
    sample.save(path)
    again = TrainingSample.load(path)
    assert again.equals(sample)
    assert again.turns == sample.turns
    assert (again.routed_experts is None) is not experts
    # Any other reader of the format sees plain tensors.
    assert load_file(path)["token_ids"].tolist() == sample.token_ids.tolist()


def test_what_is_no_saved_sample_is_refused(tmp_path: Path) -> None:
    sample = made().sample()
    path = tmp_path / "sample.safetensors"
    arrays: dict[str, Any] = {"token_ids": sample.token_ids, "mask": sample.mask, "logprobs": sample.logprobs}
    metadata = {"format": "dynamo-tito training sample 1", "turns": "[]", "shared": "0"}
    save_file(arrays, path, metadata=metadata)
    assert np.array_equal(TrainingSample.load(path).token_ids, sample.token_ids)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"token_ids": sample.token_ids[1:]}, "differ in length"),
        ({"token_ids": sample.token_ids.astype(np.int64)}, "holds no token_ids of dtype int32"),
        ({"mask": sample.mask[None]}, "holds no mask"),
        ({"routed_experts": np.zeros((len(sample), 2), np.uint8)}, "layers, top_k"),
        ({"routed_experts": np.zeros((len(sample) - 1, 2, 2), np.uint8)}, "differ in length"),
    ]
    for broken, said in cases:
        save_file(arrays | broken, path, metadata=metadata)
        with pytest.raises(ValueError, match=said):
            TrainingSample.load(path)
    save_file(arrays, path)
    with pytest.raises(ValueError, match="is not a"):
        TrainingSample.load(path)


def test_a_sample_crosses_process_borders() -> None:
    sample = made().sample()
    assert pickle.loads(pickle.dumps(sample[3:])).equals(sample[3:])


def test_lists_and_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = made().sample()
    lists = sample.to_lists()
    assert lists["token_ids"] == sample.token_ids.tolist()
    assert np.array_equal(np.array(lists["routed_experts"]), np.asarray(sample.routed_experts))
    assert made(experts=False).sample().to_lists()["routed_experts"] is None
    # torch shares the memory of what it is given; it complains about arrays that cannot be written.
    torch: Any = ModuleType("torch")
    torch.from_numpy = lambda array: array if array.flags.writeable else pytest.fail("read-only")
    monkeypatch.setitem(sys.modules, "torch", torch)
    tensors = sample.to_torch()
    assert list(tensors) == ["token_ids", "mask", "logprobs", "routed_experts"]
    assert all(tensors[name] is getattr(sample, name) for name in tensors)
    assert made(experts=False).sample().to_torch()["routed_experts"] is None


def test_finish_reasons_and_tool_calls() -> None:
    first, second = made(tools=True).turns
    # 600 says nothing, 701 is malformed; 602 is malformed, 603 says nothing.
    assert [call.status for call in first.tool_calls] == ["invalid_json"]
    assert first.finish_reason == "stop"
    assert "tool_calls" not in first.message
    assert [call.status for call in second.tool_calls] == ["invalid_json"]
    rollout = Rollout(ChatRenderer(), tools=[{"name": "look"}])
    rollout.prompt_ids([{"role": "user", "content": "a"}])
    turn = rollout.append(completion([601, 602, END]))
    assert [call.status for call in turn.tool_calls] == ["ok", "invalid_json"]
    assert turn.finish_reason == "tool_calls"
    assert turn.message["tool_calls"] == [
        {"id": "call_0_0", "type": "function", "function": {"name": "look", "arguments": '{"token": 601}'}}
    ]
    rollout.prompt_ids([{"role": "tool", "content": "x", "tool_call_id": "call_0_0"}])
    assert rollout.append(completion([604, END], finish_reason="length")).finish_reason == "length"


@pytest.mark.parametrize(
    ("versions", "kind"),
    [
        ([{"version": "a", "start": 0}], "type"),
        ([{"start": 0, "end": 1}], "type"),
        (["a"], "type"),
        ([{"version": "a", "start": 0, "end": 9}], "range"),
        ([{"version": "a", "start": 1, "end": 0}], "range"),
        ([{"version": "a", "start": 0, "end": 2}, {"version": "b", "start": 1, "end": 2}], "range"),
        ([{"version": "a", "start": 1, "end": 2}, {"version": "b", "start": 0, "end": 1}], "range"),
        ([{"version": "a", "start": 0, "end": 1}, {"version": "b"}], "range"),
    ],
)
def test_weights_that_make_no_sense_are_refused(versions: Any, kind: str) -> None:
    rollout = Rollout(ChatRenderer())
    rollout.prompt_ids([{"role": "user", "content": "a"}])
    with pytest.raises(tito.AlignmentError, match="weight") as caught:
        rollout.append(completion([601, END], weight_versions=versions))
    assert caught.value.kind == kind
    assert rollout.head is None


def test_a_sample_without_logprobs() -> None:
    rollout = Rollout(ChatRenderer())
    rollout.prompt_ids([{"role": "user", "content": "a"}])
    rollout.append(completion([601, END], logprobs=None))
    sample = rollout.sample()
    assert sample.mask.sum() == 2
    assert np.isnan(sample.logprobs).all()


def test_parts_that_differ_in_length_are_no_sample() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        TrainingSample(np.zeros(2, np.int32), np.zeros(3, np.bool_), np.zeros(2), None)
