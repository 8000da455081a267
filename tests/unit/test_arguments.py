"""Wrong arguments are a TypeError or ValueError that names them, before anything is parsed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from support.small import GENERATE, VLLM_CHAT, with_experts

BROKEN = b"this is never parsed"


def wrong(error: type[Exception], match: str, **options: Any) -> None:
    for decode in (tito.decode, tito.decode_choices):
        with pytest.raises(error, match=match) as caught:
            decode(BROKEN, **({"wire": "vllm_generate"} | options))
        assert not isinstance(caught.value, tito.TitoError)


@pytest.mark.parametrize("body", ["{}", None, 7, [1], {"choices": []}])
def test_a_body_that_is_no_bytes(body: Any) -> None:
    with pytest.raises(TypeError):
        tito.decode(body, wire="vllm_generate")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("wire", "openai", ValueError),
        ("wire", "VLLM_GENERATE", ValueError),
        ("wire", 7, TypeError),
        ("experts", "int8", ValueError),
        ("experts", None, TypeError),
        ("missing_logprob", "zero", ValueError),
        ("logprobs_dtype", "float16", ValueError),
        ("logprobs_dtype", np.float32, TypeError),
        ("final_row", "both", ValueError),
        ("prompt_len", -1, ValueError),
        ("prompt_len", 1.5, TypeError),
        ("prompt_len", "5", TypeError),
        ("routed_experts_prompt_start", -1, ValueError),
        ("routed_experts_prompt_start", 2.0, TypeError),
        ("num_layers", 0, ValueError),
        ("num_layers", -1, ValueError),
        ("top_k", 0, ValueError),
        ("top_k", "2", TypeError),
        ("prompt_token_ids", "123", TypeError),
        ("prompt_token_ids", 7, TypeError),
        ("prompt_token_ids", [1.5], TypeError),
        ("prompt_token_ids", [-1], ValueError),
        ("prompt_token_ids", [2**31], ValueError),
        ("prompt_token_ids", [2**70], ValueError),
        ("prompt_token_ids", np.array([-1], np.int32), ValueError),
        ("prompt_token_ids", np.array([2**31], np.int64), ValueError),
        ("prompt_token_ids", np.array([1.0]), TypeError),
        ("prompt_token_ids", np.array([[1, 2]], np.int32), (TypeError, ValueError)),
        ("experts_out", [0] * 100, TypeError),
        ("experts_out", np.zeros(100, np.int64), TypeError),
        ("experts_out", np.zeros(100, np.uint8), TypeError),
        ("experts_out", np.zeros(100, ">i4"), TypeError),
        ("experts_out", np.zeros(100, np.int32)[::2], ValueError),
    ],
)
def test_an_argument_that_does_not_fit(name: str, value: Any, error: Any) -> None:
    wrong(error, name, **{name: value})


def test_a_read_only_buffer() -> None:
    room = np.zeros(100, np.int32)
    room.flags.writeable = False
    wrong(ValueError, "experts_out", experts_out=room)


def test_prompt_len_counts_where_it_differs_from_the_ids() -> None:
    # A multimodal prompt is longer for the engine than the ids that were sent.
    assert tito.decode(with_experts(), wire="vllm_generate", prompt_len=3, prompt_token_ids=[1, 2]).complete


@pytest.mark.parametrize("mode", ["native", "skip"])
def test_a_buffer_that_would_not_be_used(mode: str) -> None:
    wrong(ValueError, "experts_out", experts=mode, experts_out=np.zeros(100, np.int32))


def test_wire_has_no_default() -> None:
    with pytest.raises(TypeError, match="wire"):
        tito.decode(GENERATE)  # type: ignore[call-arg]


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        tito.decode(GENERATE, "vllm_generate")  # type: ignore[call-arg]


def test_an_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="prompt_length"):
        tito.decode(GENERATE, wire="vllm_generate", prompt_length=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda body: np.frombuffer(body, np.uint8)])
def test_any_bytes_like_object_is_a_body(form: Any) -> None:
    assert tito.decode(form(GENERATE), wire="vllm_generate").token_ids.tolist() == [5, 6]


def test_a_body_is_never_modified() -> None:
    body = bytearray(with_experts())
    tito.decode(body, wire="vllm_generate")
    assert body == with_experts()


def test_a_strided_body_is_read_in_its_own_order() -> None:
    backwards: Any = np.frombuffer(GENERATE[::-1], np.uint8)[::-1]
    assert tito.decode(backwards, wire="vllm_generate").token_ids.tolist() == [5, 6]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_prompt_ids_of_either_width(dtype: Any) -> None:
    ids = np.array([1, 9, 2, 9, 3, 9], dtype)[::2]
    assert tito.decode(VLLM_CHAT, wire="vllm_chat", prompt_token_ids=ids).prompt_token_ids is not None


class TestExpertsOut:
    def test_holds_the_result(self) -> None:
        room = np.full((10, 1, 2), -1, np.int32)
        routed = tito.decode(with_experts(), wire="vllm_generate", experts_out=room).routed_experts
        assert routed is not None
        assert np.shares_memory(routed.array, room)
        assert routed.array.shape == (4, 1, 2)
        assert room.reshape(-1)[:8].tolist() == [*range(8)]
        assert (room.reshape(-1)[8:] == -1).all()

    def test_of_exactly_the_right_size(self) -> None:
        room = np.empty(8, np.int32)
        routed = tito.decode(with_experts(), wire="vllm_generate", experts_out=room).routed_experts
        assert routed is not None
        assert np.shares_memory(routed.array, room)

    def test_that_is_too_small(self) -> None:
        room = np.full(7, -1, np.int32)
        with pytest.raises(ValueError, match="experts_out") as caught:
            tito.decode(with_experts(), wire="vllm_generate", experts_out=room)
        assert not isinstance(caught.value, tito.TitoError)
        assert (room == -1).all()

    def test_is_left_alone_where_there_are_no_experts(self) -> None:
        room = np.full(8, -1, np.int32)
        assert tito.decode(GENERATE, wire="vllm_generate", experts_out=room).routed_experts is None
        assert (room == -1).all()


class TestEncodeRoutedExperts:
    @pytest.mark.parametrize(
        ("array", "error"),
        [
            ([[[1]]], TypeError),
            (np.zeros((2, 2), np.uint8), ValueError),
            (np.zeros((2, 2, 2, 2), np.uint8), ValueError),
            (np.zeros((2, 2, 2), np.float32), TypeError),
            (np.zeros((2, 2, 2), bool), TypeError),
            (np.zeros((2, 0, 2), np.uint8), ValueError),
            (np.full((2, 2, 2), -1, np.int32), ValueError),
            (np.full((2, 2, 2), 2**31, np.int64), ValueError),
            (np.full((2, 2, 2), 2**31, np.uint32), ValueError),
            (np.full((2, 2, 2), 2**63, np.uint64), ValueError),
        ],
    )
    def test_refuses(self, array: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            tito.encode_routed_experts(array)

    @pytest.mark.parametrize(("start", "error"), [(-1, ValueError), (0.5, TypeError), ("0", TypeError)])
    def test_refuses_a_start(self, start: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            tito.encode_routed_experts(np.zeros((1, 1, 1), np.uint8), start=start)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64, np.int8])
    def test_keeps_only_widths_that_the_wire_has(self, dtype: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            tito.encode_routed_experts(np.zeros((1, 1, 1), dtype), narrow=False)


class TestEncodeTokenIds:
    @pytest.mark.parametrize(
        ("ids", "error"),
        [
            ([-1], ValueError),
            ([2**31], ValueError),
            ([1.5], TypeError),
            (["1"], TypeError),
            ("12", TypeError),
            (np.array([1.0]), TypeError),
            (np.array([-1], np.int32), ValueError),
            (np.array([2**31], np.int64), ValueError),
        ],
    )
    def test_refuses(self, ids: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            tito.encode_token_ids(b"[", ids, b"]")
