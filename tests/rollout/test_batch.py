"""Batches of samples: every column where its sample is, whatever the way there and back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import dynamo_tito as tito
from dynamo_tito import SampleBatch
from dynamo_tito.rollout import TrainingSample, sample_of
from support.completions import completion, routed


def sample(prompt: int, sampled: int, seed: int, **fields: Any) -> TrainingSample:
    """A sample whose values are its own, with a row of routing for every token unless ``experts`` says otherwise."""
    rng = np.random.default_rng(seed)
    width = fields.pop("width", "uint8")
    rows = routed(prompt + sampled - 1, dtype=width) if fields.pop("experts", True) and prompt + sampled else None
    half = sampled // 2
    versions = [{"version": f"v{seed}", "start": 0, "end": half}, {"version": "new", "start": half, "end": sampled}]
    made = completion(
        rng.integers(0, 1 << 30, sampled).tolist(),
        rows,
        request_id=f"r{seed}",
        **{"weight_versions": versions, "logprobs": -rng.random(sampled), "stop_reason": seed, **fields},
    )
    return sample_of(rng.integers(0, 1 << 30, prompt).tolist(), made)


def samples() -> list[TrainingSample]:
    """Long and short, with two widths, without turns, with a bare label, and one that begins inside of a turn."""
    return [
        sample(5, 3, 1),
        sample(1, 6, 2, width="uint16", stop_reason="</s>"),
        sample(4, 2, 3, weight_versions=None, finish_reason="length", aborted=None),
        sample(2, 9, 4)[3:8],
        sample(3, 4, 5, weight_versions=[{"version": "new"}], stop_reason=None)[:5],
    ]


def same(batch: SampleBatch, expected: list[TrainingSample]) -> None:
    assert len(batch) == len(expected)
    for one, two in zip(batch, expected, strict=True):
        assert one.turns == two.turns
        assert one.shared == two.shared
        for name in ("token_ids", "mask", "logprobs"):
            assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=name == "logprobs"), name
        # By value: a batch has one width.
        assert np.array_equal(one.routed_experts, two.routed_experts)  # type: ignore[arg-type]


def test_what_a_batch_is() -> None:
    given = samples()
    batch = SampleBatch.from_samples(given)
    tokens = sum(map(len, given))
    same(batch, given)
    assert {name: (array.dtype.name, array.shape) for name, array in batch.to_numpy().items() if array is not None} == {
        "token_ids": ("int32", (tokens,)),
        "mask": ("bool", (tokens,)),
        "logprobs": ("float64", (tokens,)),
        "offsets": ("int64", (6,)),
        "routed_experts": ("uint16", (tokens, 2, 2)),
        "routing_offsets": ("int64", (6,)),
        "shared": ("int64", (5,)),
        "turns": ("int64", (5, 3)),
        "turn_offsets": ("int64", (6,)),
        "spans": ("int64", (len(batch.spans), 2)),
        "span_versions": ("int32", (len(batch.spans),)),
        "span_measured": ("bool", (len(batch.spans),)),
        "span_offsets": ("int64", (6,)),
        "notes": ("uint8", batch.notes.shape),
    }
    assert repr(batch) == f"SampleBatch(5 samples, {tokens} tokens, routed_experts=uint16[{tokens}, 2, 2])"


def test_samples_and_slices_are_views() -> None:
    given = samples()
    batch = SampleBatch.from_samples(given)
    for first in range(len(given) + 1):
        for last in range(first, len(given) + 1):
            part = batch[first:last]
            same(part, given[first:last])
            assert np.shares_memory(part.token_ids, batch.token_ids) or first == last
    assert np.shares_memory(batch[-1].routed_experts, batch.routed_experts)
    with pytest.raises(IndexError, match="out of range for 5 samples"):
        batch[5]
    with pytest.raises(TypeError, match="steps of 1"):
        batch[::2]


def test_one_sample_is_not_copied() -> None:
    only = sample(5, 3, 1)
    batch = SampleBatch.from_samples([only])
    for name in ("token_ids", "mask", "logprobs", "routed_experts"):
        assert np.shares_memory(getattr(batch, name), getattr(only, name)), name


def test_samples_with_and_without_routing() -> None:
    given = [sample(2, 2, 1), sample(3, 1, 2, experts=False), sample(1, 2, 3)]
    batch = SampleBatch.from_samples(given)
    assert np.diff(batch.routing_offsets).tolist() == [4, 0, 3]
    assert [one.routed_experts is None for one in batch] == [False, True, False]
    assert all(one.equals(two) for one, two in zip(batch, given, strict=True))
    dense = SampleBatch.from_samples(given[1:2])
    assert dense.routed_experts is None
    assert dense[0].routed_experts is None


def test_samples_of_another_shape_are_refused() -> None:
    other = sample_of([1], completion([2], routed(1, layers=3)))
    with pytest.raises(tito.RoutedExpertsError, match=r"\(2, 2\) and \(3, 2\)") as caught:
        SampleBatch.from_samples([sample(2, 2, 1), other])
    assert caught.value.kind == "shape"


def test_an_empty_batch(tmp_path: Path) -> None:
    batch = SampleBatch.from_samples([])
    assert (len(batch), [*batch], batch.versions) == (0, [], ())
    batch.to_safetensors(tmp_path / "none")
    for again in (SampleBatch.from_safetensors(tmp_path / "none"), pickle.loads(pickle.dumps(batch)), batch[0:0]):
        assert again.equals(batch)


def test_versions_per_token() -> None:
    given = samples()
    batch = SampleBatch.from_samples(given)
    names = np.array([*batch.versions, "none"])
    expected = []
    for one in given:
        versions, indices = one.version_indices()
        expected += [versions[index] if index >= 0 else "none" for index in indices]
    assert names[batch.version_indices()].tolist() == expected
    assert batch.versions == ("v1", "new", "v2", "v4")


def test_saved_and_read(tmp_path: Path) -> None:
    batch = SampleBatch.from_samples(samples())
    batch.to_safetensors(tmp_path / "batch")
    assert SampleBatch.from_safetensors(tmp_path / "batch").equals(batch)
    assert SampleBatch(batch.to_numpy()).equals(batch)
    save_file({"token_ids": batch.token_ids}, tmp_path / "other")
    with pytest.raises(ValueError, match="is not a dynamo-tito sample batch 1"):
        SampleBatch.from_safetensors(tmp_path / "other")


def test_columns_that_do_not_fit_are_refused() -> None:
    batch = SampleBatch.from_samples(samples())
    columns = batch.to_numpy()
    rows = columns["routed_experts"]
    assert rows is not None
    falling = batch.offsets.copy()
    falling[1:3] = falling[2], falling[1]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"token_ids": batch.token_ids.astype(np.int64)}, "token_ids must be an array of int32"),
        ({"token_ids": batch.token_ids[:-1]}, "offsets must be .* numbers from 0 to"),
        ({"mask": batch.mask[:-1]}, "mask has"),
        ({"logprobs": batch.logprobs.astype(np.float16)}, "logprobs must be an array of float64 or float32"),
        ({"offsets": batch.offsets + 1}, "offsets must be .* numbers from 0 to"),
        ({"offsets": falling}, "must not fall"),
        ({"offsets": None}, "offsets must be an array"),
        ({"routed_experts": rows[:-1]}, "routing_offsets must be .* numbers from 0 to"),
        ({"routed_experts": rows[:, 0]}, "routed_experts must be an array of integers"),
        ({"routed_experts": None}, "routing_offsets must be .* numbers from 0 to"),
        ({"turns": batch.turns[:, :2]}, "turns must have 3 numbers"),
        ({"turns": batch.turns + 100}, "turns must not fall, nor leave"),
        ({"spans": batch.spans[:, ::-1]}, "spans must not fall, nor leave"),
        ({"span_versions": -1 - batch.span_versions}, "span_versions must not be below 0"),
        ({"span_measured": batch.span_measured[1:]}, "span_measured has"),
        ({"weights": batch.mask}, r"no columns \['weights'\]"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            SampleBatch({**columns, **change})
    half = batch.routing_offsets.copy()
    half[1] -= 1
    with pytest.raises(ValueError, match="a row of routed_experts for each of its tokens, or none"):
        SampleBatch({**columns, "routing_offsets": half})


def test_copies() -> None:
    batch = SampleBatch.from_samples(samples())
    for again in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch, protocol=2))):
        assert again.equals(batch)
    assert not batch.equals(SampleBatch.from_samples(samples()[1:]))


def test_arrow_shares_the_memory_and_comes_back(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    given = samples()
    batch = SampleBatch.from_samples(given)
    table = batch.to_arrow()
    assert table.num_rows == len(batch)
    assert table.schema.field("token_ids").type == pa.large_list(pa.int32())
    assert table["token_ids"].to_pylist() == [one.token_ids.tolist() for one in given]
    assert table["turns"][1].as_py()[0]["weight_versions"][0]["version"] == "v2"
    for name, values in (("token_ids", batch.token_ids), ("logprobs", batch.logprobs)):
        assert table[name].chunk(0).values.buffers()[1].address == values.__array_interface__["data"][0]
    again = SampleBatch.from_arrow(table)
    assert again.equals(batch)
    assert np.shares_memory(again.routed_experts, batch.routed_experts)
    for part in (table.slice(1, 3), pa.concat_tables([table.slice(1, 2), table.slice(3, 1)])):
        assert SampleBatch.from_arrow(part).equals(batch[1:4])
    parquet.write_table(table, tmp_path / "batch.parquet")
    assert SampleBatch.from_arrow(parquet.read_table(tmp_path / "batch.parquet")).equals(batch)
    assert SampleBatch.from_arrow(table.to_batches()[0]).equals(batch)
    dense = SampleBatch.from_samples([sample(3, 1, 2, experts=False)])
    assert "routed_experts" not in dense.to_arrow().column_names
    assert SampleBatch.from_arrow(dense.to_arrow()).equals(dense)
    none = SampleBatch.from_samples([])
    assert SampleBatch.from_arrow(none.to_arrow()).equals(none)


def test_tables_that_hold_no_batch_are_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    table = SampleBatch.from_samples(samples()).to_arrow()
    with pytest.raises(ValueError, match=r"no columns \['mask'\]"):
        SampleBatch.from_arrow(table.drop_columns(["mask"]))
    numbers = pa.array(range(5), pa.int64())
    place = table.column_names.index("turns")
    with pytest.raises(ValueError, match="column turns is int64"):
        SampleBatch.from_arrow(table.set_column(place, "turns", numbers))
    with pytest.raises(ValueError, match="column routed_experts is int64"):
        SampleBatch.from_arrow(table.set_column(table.column_names.index("routed_experts"), "routed_experts", numbers))
    shared = pa.array([0, None, 0, 0, 0], pa.int64())
    with pytest.raises(ValueError, match="column shared has nulls"):
        SampleBatch.from_arrow(table.set_column(table.column_names.index("shared"), "shared", shared))
    mask = table["mask"].chunk(0)
    longer = pa.LargeListArray.from_arrays(
        pa.array(mask.offsets.to_numpy() + np.arange(6)), pa.array([True] * (len(mask.values) + 5))
    )
    with pytest.raises(ValueError, match="columns mask and token_ids differ in length"):
        SampleBatch.from_arrow(table.set_column(table.column_names.index("mask"), "mask", longer))


def test_tensors_share_the_memory() -> None:
    pytest.importorskip("torch")
    batch = SampleBatch.from_samples(samples())
    tensors = batch.to_torch()
    assert {*tensors} == {*batch.to_numpy()} - {"notes"}
    for name, tensor in tensors.items():
        assert np.array_equal(tensor.numpy(), getattr(batch, name), equal_nan=name == "logprobs"), name
        assert not tensor.numel() or np.shares_memory(tensor.numpy(), getattr(batch, name)), name
    # As it comes out of a store: read-only, so that a tensor is a copy, and without a warning.
    views: list[pickle.PickleBuffer] = []
    band = pickle.dumps(batch, protocol=5, buffer_callback=views.append)
    stored: SampleBatch = pickle.loads(band, buffers=[bytes(view.raw()) for view in views])
    for value in (stored, stored[0]):
        for name, tensor in value.to_torch().items():
            assert np.array_equal(tensor.numpy(), getattr(value, name), equal_nan=name == "logprobs"), name
    assert SampleBatch.from_samples(samples()[2:3])[0].to_torch()["routed_experts"].shape == (6, 2, 2)


def test_float32_stays_where_every_sample_has_it(tmp_path: Path) -> None:
    narrow = [sample(2, 3, seed, logprobs=-np.arange(3, dtype=np.float32)) for seed in (1, 2)]
    batch = SampleBatch.from_samples(narrow)
    assert batch.logprobs.dtype == np.float32
    same(batch, narrow)
    batch.to_safetensors(tmp_path / "batch.safetensors")
    for again in (
        pickle.loads(pickle.dumps(batch)),
        SampleBatch.from_arrow(batch.to_arrow()),
        SampleBatch.from_safetensors(tmp_path / "batch.safetensors"),
    ):
        assert again.logprobs.dtype == np.float32
        same(again, narrow)
    assert SampleBatch.from_samples([*narrow, sample(2, 3, 3)]).logprobs.dtype == np.float64
