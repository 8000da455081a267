"""Spare memory at the end of a body, to receive bytes in place."""

from __future__ import annotations

import gc
import socket
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import Body
from dynamo_tito._native import Spare
from support.small import GENERATE, uses


def write(spare: Spare, data: bytes, at: int = 0) -> None:
    with memoryview(spare) as view:
        view[at : at + len(data)] = data


@pytest.mark.parametrize("head", [0, 1, len(GENERATE) // 2, len(GENERATE) - 1])
@pytest.mark.parametrize("capacity", [0, len(GENERATE)])
def test_what_is_written_there_belongs_to_the_body(head: int, capacity: int) -> None:
    body = Body(capacity)
    body.append(GENERATE[:head])
    spare = body.spare(len(GENERATE) - head)
    assert len(spare) == len(GENERATE) - head
    write(spare, GENERATE[head:])
    spare.filled(len(spare))
    assert len(body) == len(GENERATE)
    assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]
    assert body.tobytes() == GENERATE


def test_spare_memory_and_chunks_in_turns() -> None:
    body = Body()
    for at in range(0, len(GENERATE), 6):
        body.append(GENERATE[at : at + 2])
        spare = body.spare(4)
        write(spare, GENERATE[at + 2 : at + 6])
        spare.filled(len(GENERATE[at + 2 : at + 6]))
    assert body.tobytes() == GENERATE


def test_a_socket_receives_into_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GENERATE)
        body = Body()
        spare = body.spare(len(GENERATE))
        with memoryview(spare) as view:
            received = 0
            while received < len(GENERATE):
                received += ours.recv_into(view[received:])
        spare.filled(received)
    assert body.tobytes() == GENERATE


@pytest.mark.parametrize("count", [0, 1, 9])
def test_only_what_is_filled_counts(count: int) -> None:
    body = Body()
    body.append(b"0123")
    spare = body.spare(10)
    write(spare, b"abcdefghij")
    spare.filled(count)
    assert body.tobytes() == b"0123" + b"abcdefghij"[:count]


def test_the_buffer_is_writable_and_flat() -> None:
    with memoryview(Body().spare(8)) as view:
        assert (view.readonly, view.format, view.ndim, view.nbytes, view.contiguous) == (False, "B", 1, 8, True)


def test_a_body_whose_spare_memory_is_in_use_is_refused() -> None:
    body = Body()
    body.append(b"{}")
    spare = body.spare(4)
    for call in uses(body):
        with pytest.raises(ValueError, match="Spare of it is in use"):
            call()
    assert (len(body), body.frozen, repr(body)) == (2, False, "<Body: 2 bytes, being written to>")
    spare.filled(0)
    assert body.tobytes() == b"{}"


def test_a_frozen_body_has_no_spare_memory() -> None:
    body = Body()
    body.append(b"{}")
    body.tobytes()
    with pytest.raises(ValueError, match="frozen"):
        body.spare(1)


def test_it_is_given_back_once() -> None:
    body = Body()
    spare = body.spare(4)
    write(spare, b"abcd")
    spare.filled(2)
    with pytest.raises(ValueError, match="given back"):
        spare.filled(2)
    with pytest.raises(BufferError, match="given back"):
        memoryview(spare)
    assert (body.tobytes(), repr(spare)) == (b"ab", "<Spare: 4 bytes>")


def test_spare_memory_with_a_live_view_is_not_given_back() -> None:
    body = Body()
    spare = body.spare(4)
    views = [memoryview(spare), memoryview(spare)]
    part = views[0][1:]
    views[0].release()
    for left in (2, 1):
        with pytest.raises(BufferError, match=f"{left} views"):
            spare.filled(4)
        (views[1] if left == 2 else part).release()
    spare.filled(4)
    assert len(body) == 4


@pytest.mark.parametrize(("count", "error"), [(5, ValueError), (-1, ValueError), (2**63, ValueError), ("1", TypeError)])
def test_a_count_that_does_not_fit(count: Any, error: type[Exception]) -> None:
    body = Body()
    spare = body.spare(4)
    with pytest.raises(error):
        spare.filled(count)
    spare.filled(0)
    assert len(body) == 0


@pytest.mark.parametrize("count", [2**62, 2**63 - 1])
def test_more_than_all_memory_is_an_error(count: int) -> None:
    body = Body()
    body.append(b"{}")
    with pytest.raises(MemoryError):
        body.spare(count)
    assert body.tobytes() == b"{}"


def test_dropping_it_frees_the_content() -> None:
    body = Body()
    body.append(b"{}")
    body.spare(4)
    gc.collect()
    with pytest.raises(ValueError, match="Spare of it is in use"):
        body.tobytes()


def test_a_view_outlives_its_memory_and_the_body() -> None:
    body = Body()
    view = memoryview(body.spare(1 << 20))
    del body
    gc.collect()
    view[:] = b"x" * len(view)
    assert view[-1] == ord("x")


@pytest.mark.parametrize("back", ["filled", "dropped"])
def test_a_body_that_is_closed_meanwhile_stays_closed(back: str) -> None:
    gc.collect()
    tito.trim_memory()
    body = Body(1 << 20)
    spare = body.spare(4)
    body.close()
    assert (body.closed, tito.memory_stats()["held_bytes"]) == (True, 0)
    write(spare, b"abcd")
    if back == "filled":
        spare.filled(4)
    del spare
    assert tito.memory_stats()["held_bytes"] >= 1 << 20
    assert (body.closed, len(body)) == (True, 0)
