"""Findings of a broken capture: which there are, which there are not, and what the client does with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import TitoClient
from dynamo_tito.rollout import RoutingReport, routing_report
from dynamo_tito.simulator.model import Model

DTYPES = ["uint8", "uint16", "int16", "int32"]


def sound(rows: int = 40, layers: int = 4, top_k: int = 3, dtype: str = "uint8") -> Any:
    model = Model(num_layers=layers, top_k=top_k, num_experts=100)
    return model.routing(np.arange(rows)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sound_routing_has_no_findings(dtype: str) -> None:
    report = routing_report(sound(dtype=dtype), num_experts=100, earlier=sound(dtype=dtype))
    assert report == RoutingReport(
        region=(0, 40),
        zero_entries=(0, 0, 0, 0),
        out_of_range=0,
        first_out_of_range=None,
        duplicates=0,
        first_duplicate=None,
        longest_run=(0, 1),
        disagreements=0,
        first_disagreement=None,
        findings=(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_at_once(dtype: str) -> None:
    array, earlier = sound(dtype=dtype), sound(dtype=dtype)
    earlier[11:13] = 1
    array[:, 2] = 0
    array[20:] = array[20]
    array[7, 1, 2] = 100
    array[8, 3] = [5, 6, 5]
    array[9, 0] = 0
    report = routing_report(array, num_experts=100, earlier=earlier, region=None, max_run=19)
    assert report.zero_layers == (2,)
    assert report.zero_entries == (1, 0, 40, 0)
    assert (report.out_of_range, report.first_out_of_range) == (1, (7, 1, 2))
    assert (report.duplicates, report.first_duplicate) == (1, (8, 3))
    assert report.longest_run == (20, 20)
    assert (report.disagreements, report.first_disagreement) == (40, 0)
    assert len(report.findings) == 6
    # Rows are numbered as in the array.
    part = routing_report(array, num_experts=100, region=(5, 9), dense_layers=[2])
    assert (part.region, part.first_out_of_range, part.first_duplicate) == ((5, 9), (7, 1, 2), (8, 3))
    assert part.longest_run == (5, 1)
    assert len(part.findings) == 2
    assert routing_report(array, num_experts=101, region=(20, 40), dense_layers=[2], max_run=20).findings == ()


def test_negative_ids_are_out_of_range() -> None:
    array = sound(dtype="int16")
    array[3, 0, 1] = -1
    assert routing_report(array).first_out_of_range == (3, 0, 1)


def test_widths_may_differ_between_turns() -> None:
    assert routing_report(sound(), earlier=sound(dtype="uint16")).disagreements == 0


def test_a_view_is_read_with_its_strides() -> None:
    array = sound()
    assert routing_report(array[::2], earlier=array[::2]).findings == ()


def test_one_expert_per_token_may_be_the_first_one() -> None:
    assert routing_report(np.zeros((3, 2, 1), np.uint8), num_experts=4).findings == ()
    assert routing_report(np.zeros((30, 2, 1), np.uint8), num_experts=4).findings != ()


def test_no_rows_no_findings() -> None:
    report = routing_report(np.zeros((0, 2, 2), np.uint8), num_experts=4)
    assert (report.zero_layers, report.findings) == ((), ())


@pytest.mark.parametrize(
    ("array", "options", "error"),
    [
        (np.zeros((2, 2), np.uint8), {}, ValueError),
        (np.zeros((2, 2, 2), np.int64), {}, TypeError),
        (np.zeros((2, 2, 2), np.float32), {}, TypeError),
        (np.zeros((2, 0, 2), np.uint8), {}, ValueError),
        (np.zeros((2, 2, 2), np.uint8), {"region": (1, 3)}, ValueError),
        (np.zeros((2, 2, 2), np.uint8), {"region": (2, 1)}, ValueError),
        (np.zeros((2, 2, 2), np.uint8), {"num_experts": 0}, ValueError),
        (np.zeros((2, 2, 2), np.uint8), {"earlier": np.zeros((1, 2, 2), np.uint8)}, ValueError),
    ],
)
def test_wrong_calls(array: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        routing_report(array, **options)


@pytest.mark.parametrize("strict", [True, {"num_experts": 128}, {"num_experts": 100}])
def test_a_strict_client(strict: Any) -> None:
    with (
        simulator.running(backend="vllm", num_experts=128) as engine,
        TitoClient(engine.url, model=engine.config.model, strict_routing=strict, trust_env=False) as client,
    ):
        if strict == {"num_experts": 100}:
            with pytest.raises(tito.RoutedExpertsError, match="not from 0 to 99"):
                client.generate(list(range(1, 90)))
        else:
            assert client.generate(list(range(1, 90))).routed_experts is not None


@pytest.mark.parametrize(("strict", "error"), [("yes", TypeError), ({"experts": 4}, ValueError)])
def test_wrong_options_of_a_strict_client(strict: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="strict_routing"):
        TitoClient("http://127.0.0.1:1", model=None, strict_routing=strict)
