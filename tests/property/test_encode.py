"""Encoding routed experts and decoding them gives the same ids back, at the width that was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import dynamo_tito as tito
from support.bodies import routing_object
from support.small import GENERATE, swap
from support.writing import compact

shapes = st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))
widths = st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "int64", "uint64"])


@st.composite
def ids(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = np.dtype(draw(widths))
    largest = min(draw(st.sampled_from([1, 255, 256, 65535, 65536, 2**31 - 1])), int(np.iinfo(dtype).max))
    array = draw(nps.arrays(dtype, draw(shapes), elements=st.integers(0, largest)))
    step = draw(st.sampled_from([slice(None), slice(None, None, -1), slice(None, None, 2)]))
    return draw(st.sampled_from([array, np.asfortranarray(array), array[step]]))


def decoded(payload: dict[str, Any]) -> tito.RoutedExperts:
    body = swap(GENERATE, b'"routed_experts":null', b'"routed_experts":' + compact(payload))
    routed = tito.decode(body, wire="vllm_generate", experts="native").routed_experts
    assert routed is not None
    return routed


@given(ids(), st.integers(0, 2**40))
def test_narrowed_ids_come_back(array: np.ndarray[Any, Any], start: int) -> None:
    payload = tito.encode_routed_experts(array, start=start)
    routed = decoded(payload)
    assert np.array_equal(routed.array, array)
    assert routed.start == start
    largest = int(array.max(initial=0))
    narrowest = "uint8" if largest < 256 else "uint16" if largest < 65536 else "int32"
    assert payload["dtype"] == routed.wire_dtype == narrowest


@given(ids().filter(lambda array: array.dtype.name in ("uint8", "uint16", "int16", "int32")))
def test_ids_of_a_kept_width_come_back(array: np.ndarray[Any, Any]) -> None:
    payload = tito.encode_routed_experts(array, narrow=False)
    routed = decoded(payload)
    assert np.array_equal(routed.array, array)
    assert payload["dtype"] == routed.wire_dtype == array.dtype.name


@given(ids())
def test_the_payload_is_the_one_that_numpy_would_make(array: np.ndarray[Any, Any]) -> None:
    payload = tito.encode_routed_experts(array, start=3)
    expected = routing_object(array.astype(payload["dtype"]), 3)
    assert payload == expected
    assert list(payload) == ["data", "shape", "start", "dtype"]


@given(
    st.lists(st.integers(0, 2**31 - 1), max_size=40),
    st.binary(max_size=10),
    st.binary(max_size=10),
    st.sampled_from(["list", "int32", "int64", "strided"]),
)
def test_token_ids_become_json(values: list[int], prefix: bytes, suffix: bytes, form: str) -> None:
    given_ids: Any = values
    if form == "strided":
        given_ids = np.repeat(np.array(values, np.int32), 2)[::2]
    elif form != "list":
        given_ids = np.array(values, form)
    expected = prefix + ",".join(map(str, values)).encode() + suffix
    assert tito.encode_token_ids(prefix, given_ids, suffix) == expected
