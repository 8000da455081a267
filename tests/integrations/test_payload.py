"""Routed experts are found in an answer as `json` finds them, without being decoded, or are not taken for a payload."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import pytest

from dynamo_tito.integrations._payload import Bytes, find_payload, rows_end


def payload(rows: int = 5, **more: Any) -> dict[str, Any]:
    data = np.arange(rows * 6, dtype=np.uint8)
    return {"data": base64.b64encode(data.tobytes()).decode(), "shape": [rows, 3, 2], "start": 0} | more


def found(document: Any, **how: Any) -> Any:
    body = json.dumps(document, **how).encode()
    result = find_payload(Bytes(body))
    if result.payload is None:
        return result.count
    begin, end = result.text
    assert body[begin:end] == bytes(result.payload["data"])
    return result.payload | {"data": bytes(result.payload["data"]).decode()}


@pytest.mark.parametrize("how", [{}, {"separators": (",", ":")}, {"indent": 3}])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_json_reads(how: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    rows = [1, 1_000, 43_690, 100_000, 0][seed]
    members = list(payload(rows, dtype="uint8").items())
    rng.shuffle(members)
    expected = dict(members)
    padding = "x" * rng.randrange(300_000)
    choice = {"text": padding, "routed_experts": expected, "after": padding}
    assert found({"choices": [choice]}, **how) == expected
    assert rows_end(expected) == rows


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"a": None}, 0),
        ({"routed_experts": None}, 0),
        ({"routed_experts": "k05VTVBZ"}, 1),
        ({"routed_experts": {"shape": [1]}, "data": "AAAA"}, 1),
        ({"routed_experts": {"meta": {"data": "AAAA"}, "shape": [1]}}, 1),
        ({"routed_experts": {"data": None}}, 1),
        ({"routed_experts": {"data": ["AAAA"]}}, 1),
        ({"a": {"routed_experts": payload()}, "b": {"routed_experts": payload()}}, 2),
        ({"token": '"routed_experts":{"data":"AAAA"}'}, 0),
        ({"token": "routed_experts", "data": "AAAA"}, 0),
    ],
)
def test_anything_else_is_no_payload(document: Any, expected: int) -> None:
    assert found(document, separators=(",", ":")) == expected


def test_what_is_null_elsewhere_does_not_count() -> None:
    assert found({"nvext": {"routed_experts": None}, "b": {"routed_experts": payload()}}) == payload()


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_body_that_is_cut_is_no_payload(cut: int) -> None:
    body = json.dumps({"routed_experts": payload()}).encode()
    result = find_payload(Bytes(body[:-cut]))
    assert result.payload is None or cut == 1


@pytest.mark.parametrize("pattern", [b"needle", b'"'])
def test_the_search_crosses_pieces(pattern: bytes) -> None:
    for at in (0, 1, (1 << 18) - 3, 1 << 18, (1 << 19) - 1):
        body = b"." * at + pattern + b"." * 10
        assert Bytes(body).find(pattern) == at
        assert Bytes(body).find(pattern, 0, at + len(pattern) - 1) == -1
        assert Bytes(body).find(pattern, at + 1) == -1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"start": 7}, 12),
        ({"dtype": "uint16"}, None),
        ({"dtype": "float32"}, None),
        ({"shape": [5, 3]}, None),
        ({"shape": [6, 3, 2]}, None),
        ({"start": None}, 5),
    ],
)
def test_where_the_rows_end(change: dict[str, Any], expected: int | None) -> None:
    assert rows_end(payload(**change)) == expected
