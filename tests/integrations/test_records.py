"""The parts that every adapter is made of: rows, widths, lengths, versions; and answers that are continued."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import connect, simulator
from dynamo_tito.integrations import _connection, _records
from dynamo_tito.integrations._frameworks import framework
from dynamo_tito.rollout import sample_of
from dynamo_tito.simulator import Fault
from support.completions import completion, routed
from support.trajectories import PROMPT, conversation, same_values, single, turn


def test_rows_are_those_of_all_tokens_but_the_last() -> None:
    whole = turn(3)
    assert whole.routed_experts is not None
    rows = _records.whole_rows(whole, 5)
    assert rows is whole.routed_experts.array or np.shares_memory(rows, whole.routed_experts.array)
    assert rows is not None
    assert len(rows) == 7
    present = dataclasses.replace(whole, routed_experts=routed(8))
    assert np.array_equal(_records.whole_rows(present, 5), rows)  # type: ignore[arg-type]
    for experts, kind in ((routed(6), "rows"), (routed(9), "rows"), (routed(4, 3), "gap")):
        with pytest.raises(tito.RoutedExpertsError) as caught:
            _records.whole_rows(dataclasses.replace(whole, routed_experts=experts), 5)
        assert caught.value.kind == kind
    before_its_first = completion([], routed(0), aborted=True, finish_reason="abort")
    assert _records.whole_rows(before_its_first, 5) is None
    held = conversation()
    assert np.array_equal(_records.recorded_rows(held.sample), held.rows)  # type: ignore[arg-type]


def test_widths_change_in_one_copy_or_none() -> None:
    rows = routed(4, dtype="uint16").array
    assert _records.cast(rows, np.uint16) is rows
    assert _records.cast(rows, np.int16).tolist() == rows.tolist()
    rows[3, 1, 1] = 32_768
    with pytest.raises(tito.RoutedExpertsError, match="expert 32768 does not fit int16") as caught:
        _records.cast(rows, np.int16)
    assert caught.value.kind == "dtype"
    with pytest.raises(tito.RoutedExpertsError, match="expert -1 does not fit uint8"):
        _records.cast(np.full((1, 1, 1), -1, np.int16), np.uint8)


def test_token_ids() -> None:
    assert _records.ids_of([]).dtype == np.int32
    ids = np.array([1, 2], np.int32)
    assert _records.ids_of(ids) is ids
    for wrong in ([-1], [1 << 31], [1.0], [[1]], ["a"]):
        with pytest.raises(ValueError, match="token ids must be"):
            _records.ids_of(wrong)


def test_missing_log_probabilities_are_refused() -> None:
    nan = turn(3, logprobs=np.array([-1.0, np.nan, -2.0]))
    with pytest.raises(tito.MissingFieldError, match="token 1 has no log-probability"):
        _records.logprobs_of(nan)
    sample = sample_of(PROMPT, nan)
    with pytest.raises(tito.MissingFieldError, match="token 6 has no log-probability"):
        _records.sampled_logprobs(sample)
    with pytest.raises(ValueError, match="no sampled token"):
        _records.prompt_length(sample[:5])


def test_parts_of_another_length_are_refused() -> None:
    with pytest.raises(tito.AlignmentError, match="1 log-probabilities for 2 tokens"):
        _records.completion_of([1, 2], [-1.0], source="a", prompt_len=1)
    with pytest.raises(tito.AlignmentError, match="2 tokens, 1 of a mask"):
        _records.sample_from([1, 2], [True], None)
    rows = routed(3).array
    for wrong, kind in (
        (rows[:1], "rows"),
        (rows[:, 0], "shape"),
        (rows.astype(float), "shape"),
        (-1 - rows.astype(int), "no_route"),
    ):
        with pytest.raises(tito.RoutedExpertsError) as caught:
            _records.sample_from([1, 2, 3, 4], [False, True, True, True], None, rows=wrong)
        assert caught.value.kind == kind


@pytest.mark.parametrize("final_row", ["repeat", "zeros", "spread", "drop"])
def test_the_last_row_is_the_policys(final_row: Any) -> None:
    held = conversation()
    made = _records.sample_from(held.token_ids, held.mask, held.logprobs, rows=held.rows, final_row=final_row)
    rows = made.routed_experts
    assert rows is not None
    if final_row == "drop":
        assert len(made) == len(rows) == 13
    else:
        last = {"repeat": held.rows[-1], "zeros": np.zeros((2, 2)), "spread": np.array([[0, 1], [0, 1]])}[final_row]
        assert rows[-1].tolist() == last.tolist()
    assert rows[:13].tolist() == held.rows.tolist()
    first = made.turns[0]
    assert (first.start, first.completion_start, first.end) == (0, 5, 8)


def test_versions_are_numbers_where_they_can_be() -> None:
    assert [_records.version_number(label) for label in ("step_7", "12", "new", None, "v3-a")] == [
        7,
        12,
        None,
        None,
        None,
    ]
    spans = [{"version": "step_7", "start": 0, "end": 2}, {"version": "new", "start": 2, "end": 3}]
    mixed = turn(3, weight_versions=spans)
    assert _records.version_numbers(mixed, 5).tolist() == [7, 7, 5]
    bare = turn(3, weight_versions=[{"version": "9"}])
    assert _records.version_numbers(bare, 5).tolist() == [9] * 3
    made = _records.sample_from([1, 2, 3, 4], [0, 1, 1, 1], None, versions=[-1, 3, 3, 4])
    assert [(span.version, span.start, span.end) for span in made.weight_versions] == [("3", 1, 3), ("4", 3, 4)]


def test_one_completion_is_the_sample_of_a_rollout_of_one_turn() -> None:
    made = single()
    assert made.mask.tolist() == [False] * 5 + [True] * 4
    assert [(span.version, span.start, span.end) for span in made.weight_versions] == [("step_7", 5, 9)]
    assert len(sample_of(PROMPT, turn(), final_row="drop")) == 8
    with pytest.raises(tito.AlignmentError, match="answers a prompt of 2 tokens"):
        sample_of(PROMPT, turn(prompt_token_ids=np.array([1, 2], np.int32)))
    with pytest.raises(tito.RoutedExpertsError) as caught:
        sample_of(PROMPT, dataclasses.replace(turn(), routed_experts=routed(5, 3)))
    assert caught.value.kind == "gap"
    with pytest.raises(ValueError, match="final_row must be one of"):
        sample_of(PROMPT, turn(), final_row="last")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["vllm", "dynamo", "sglang"])
def test_an_answer_cut_twice_is_one_answer(backend: Any) -> None:
    async def ask(engine: Any) -> tito.Completion:
        options = {"backend": backend, "model": engine.config.model, "num_layers": 4, "top_k": 2}
        connection = pickle.loads(pickle.dumps(_connection.Connection(engine.url, **options)))
        client = connection.client()
        assert connection.client() is client
        try:
            ids = np.array(PROMPT, np.int32)
            return await _connection.until_ended(client, ids, {"max_tokens": 9, "temperature": 1.0}, pause=0)
        finally:
            await connection.aclose()

    with simulator.running(backend=backend, prompt_start="trim") as engine:
        engine.inject(Fault(kind="early_abort"), Fault(kind="abort", at=4), Fault(kind="abort", at=2))
        whole = asyncio.run(ask(engine))
        samples = [record.samples[0] for record in engine.requests]
        parts = [
            sample for sample, record in zip(samples, engine.requests, strict=True) if "early" not in str(record.fault)
        ]
        ids = [token for sample in parts for token in sample.token_ids.tolist()]
    assert whole.token_ids.tolist() == ids
    assert len(ids) == 9
    assert whole.logprobs is not None
    assert np.allclose(whole.logprobs, np.concatenate([part.logprobs for part in parts]), rtol=0, atol=1e-6)
    rows = _records.whole_rows(whole, 5)
    recorded = np.concatenate(
        [parts[0].routed_experts, *(part.routed_experts[-len(part.token_ids) :] for part in parts[1:])]
    )
    assert rows is not None
    assert rows.tolist() == recorded.tolist()
    same_values(sample_of(PROMPT, whole)[:13], sample_of(PROMPT, whole, final_row="drop"))


def test_an_abort_at_the_last_token_is_an_end_by_length() -> None:
    async def ask(engine: Any) -> tuple[tito.Completion, list[int]]:
        counts: list[int] = []
        async with connect(engine.url, backend="vllm", model=None) as client:
            whole = await _connection.until_ended(
                client,
                np.array(PROMPT, np.int32),
                {"max_tokens": 4},
                pause=0,
                seen=lambda part: counts.append(len(part.token_ids)),
            )
        return whole, counts

    with simulator.running(backend="vllm") as engine:
        engine.inject(Fault(kind="abort", at=3), Fault(kind="abort", at=1))
        whole, counts = asyncio.run(ask(engine))
    assert (whole.finish_reason, whole.finish_reason_raw, whole.aborted) == ("length", "abort", False)
    assert counts == [3, 1]


def test_one_failure_ends_the_others() -> None:
    async def ask(engine: Any) -> None:
        async with connect(engine.url, backend="vllm", model=None) as client:
            calls = [client.generate(PROMPT, sampling_params={"max_tokens": count}) for count in (3, 4, 5)]
            with pytest.raises(tito.EngineError):
                await _connection.all_of(calls)

    with simulator.running(backend="vllm", latency=0.2) as engine:
        engine.inject(Fault(kind="status", status=500, phase="request"))
        asyncio.run(ask(engine))


def test_the_error_of_a_missing_framework_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"no_such_framework.* pip install 'dynamo-tito\[verl\]'"):
        framework("no_such_framework", extra="verl")
    with pytest.raises(ImportError, match="take it from there"):
        framework("no_such_framework", extra="x", install="take it from there")
