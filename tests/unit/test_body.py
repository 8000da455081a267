"""The buffer that HTTP engines fill."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import Body
from support.small import GENERATE, uses


@pytest.mark.parametrize("capacity", [0, 1, len(GENERATE), 10 * len(GENERATE)])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_become_one_body(capacity: int, size: int) -> None:
    body = Body(capacity)
    for at in range(0, len(GENERATE), size):
        body.append(GENERATE[at : at + size])
    assert len(body) == len(GENERATE)
    assert body.tobytes() == GENERATE
    assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]
    assert body.tobytes() == GENERATE


def test_decoding_freezes() -> None:
    body = Body()
    body.append(GENERATE)
    states = [body.frozen]
    tito.decode(body, wire="vllm_generate")
    assert [*states, body.frozen] == [False, True]


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda chunk: np.frombuffer(chunk, np.uint8)])
def test_any_bytes_like_object_is_a_chunk(form: Any) -> None:
    body = Body()
    body.append(form(GENERATE))
    assert body.tobytes() == GENERATE


@pytest.mark.parametrize("chunk", ["text", None, 7, [1]])
def test_anything_else_is_not(chunk: Any) -> None:
    with pytest.raises(TypeError):
        Body().append(chunk)


@pytest.mark.parametrize("capacity", [-1, "1", 1.0])
def test_a_capacity_that_does_not_fit(capacity: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Body(capacity)


def test_a_capacity_beyond_all_memory_is_an_error() -> None:
    with pytest.raises((MemoryError, OverflowError, ValueError)):
        Body(2**62)


def test_a_frozen_body_takes_no_more() -> None:
    body = Body()
    body.append(GENERATE)
    tito.decode(body, wire="vllm_generate")
    with pytest.raises((ValueError, BufferError)):
        body.append(b" ")
    assert body.tobytes() == GENERATE
    assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]


def test_a_frozen_body_is_a_read_only_buffer() -> None:
    body = Body()
    body.append(GENERATE)
    tito.decode(body, wire="vllm_generate")
    view = memoryview(body)
    assert view.readonly
    assert view == GENERATE
    assert (view.format, view.ndim, view.contiguous) == ("B", 1, True)
    del body
    assert bytes(view) == GENERATE


def test_a_refused_body_is_frozen_and_readable_too() -> None:
    body = Body()
    body.append(b'{"error":')
    with pytest.raises(tito.MalformedBodyError):
        tito.decode(body, wire="vllm_generate")
    assert body.frozen
    assert body.tobytes() == b'{"error":'


def test_an_empty_body() -> None:
    with pytest.raises(tito.MalformedBodyError):
        tito.decode(Body(), wire="vllm_generate")


def test_a_closed_body_has_given_its_memory_back() -> None:
    gc.collect()
    tito.trim_memory()
    body = Body(1 << 20)
    body.append(GENERATE)
    body.close()
    assert tito.memory_stats()["held_bytes"] >= 1 << 20
    assert (body.closed, body.frozen, len(body), repr(body)) == (True, False, 0, "<Body: 0 bytes, closed>")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_closed_body_is_refused_for_good(*, frozen: bool) -> None:
    body = Body()
    body.append(GENERATE)
    if frozen:
        body.tobytes()
    assert not body.closed
    for _ in range(2):
        body.close()
        for call in uses(body):
            with pytest.raises(ValueError, match="the body is closed"):
                call()


@pytest.mark.parametrize("released", [False, True])
def test_what_was_exported_stays_for_as_long_as_the_body(*, released: bool) -> None:
    """Even without a view: ``torch.frombuffer`` takes the address and keeps the object alone."""
    body = Body(1 << 20)
    body.append(GENERATE)
    view = memoryview(body)
    part = view[2:]
    address = np.frombuffer(view, np.uint8).ctypes.data
    gc.collect()
    tito.trim_memory()
    if released:
        part.release()
        view.release()
    body.close()
    body.close()
    assert body.closed
    assert tito.memory_stats()["held_bytes"] == 0
    assert ctypes.string_at(address, len(GENERATE)) == GENERATE
    if not released:
        assert view == GENERATE
        assert part == GENERATE[2:]
    del body, view, part
    assert tito.memory_stats()["held_bytes"] >= 1 << 20


@pytest.mark.parametrize("expected", [5 << 20, 0])
def test_a_body_that_is_larger_than_the_last_one_by_little_takes_no_block_of_twice_its_size(expected: int) -> None:
    gc.collect()
    tito.trim_memory()
    blocks = [Body(12 << 20), Body(5 << 20)]
    del blocks
    body = Body(expected=expected)
    for _ in range(53):
        body.append(b"x" * 100_000)
    assert len(body) > 5 << 20
    assert (tito.memory_stats()["held_bytes"] >= 12 << 20) is (expected > 0)


@pytest.mark.parametrize(
    ("expected", "error"), [(-1, ValueError), ("1", TypeError), (1.0, TypeError), (2**63, ValueError)]
)
def test_an_expectation_that_does_not_fit(expected: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Body(expected=expected)
