"""Room at the end of a body, lent to whoever receives it."""

from __future__ import annotations

import gc
import socket
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import Body
from dynamo_tito._native import Room
from support.small import GENERATE, uses


def write(room: Room, data: bytes, at: int = 0) -> None:
    with memoryview(room) as view:
        view[at : at + len(data)] = data


@pytest.mark.parametrize("head", [0, 1, len(GENERATE) // 2, len(GENERATE) - 1])
@pytest.mark.parametrize("capacity", [0, len(GENERATE)])
def test_what_is_written_there_belongs_to_the_body(head: int, capacity: int) -> None:
    body = Body(capacity)
    body.append(GENERATE[:head])
    room = body.room(len(GENERATE) - head)
    assert len(room) == len(GENERATE) - head
    write(room, GENERATE[head:])
    room.filled(len(room))
    assert len(body) == len(GENERATE)
    assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]
    assert body.tobytes() == GENERATE


def test_rooms_and_chunks_in_turns() -> None:
    body = Body()
    for at in range(0, len(GENERATE), 6):
        body.append(GENERATE[at : at + 2])
        room = body.room(4)
        write(room, GENERATE[at + 2 : at + 6])
        room.filled(len(GENERATE[at + 2 : at + 6]))
    assert body.tobytes() == GENERATE


def test_a_socket_receives_into_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GENERATE)
        body = Body()
        room = body.room(len(GENERATE))
        with memoryview(room) as view:
            received = 0
            while received < len(GENERATE):
                received += ours.recv_into(view[received:])
        room.filled(received)
    assert body.tobytes() == GENERATE


@pytest.mark.parametrize("count", [0, 1, 9])
def test_only_what_is_filled_counts(count: int) -> None:
    body = Body()
    body.append(b"0123")
    room = body.room(10)
    write(room, b"abcdefghij")
    room.filled(count)
    assert body.tobytes() == b"0123" + b"abcdefghij"[:count]


def test_the_buffer_is_writable_and_flat() -> None:
    with memoryview(Body().room(8)) as view:
        assert (view.readonly, view.format, view.ndim, view.nbytes, view.contiguous) == (False, "B", 1, 8, True)


def test_a_body_whose_room_is_out_is_refused() -> None:
    body = Body()
    body.append(b"{}")
    room = body.room(4)
    for call in uses(body):
        with pytest.raises(ValueError, match="room of it is out"):
            call()
    assert (len(body), body.frozen, repr(body)) == (2, False, "<Body: 2 bytes, being written to>")
    room.filled(0)
    assert body.tobytes() == b"{}"


def test_a_frozen_body_has_no_room() -> None:
    body = Body()
    body.append(b"{}")
    body.tobytes()
    with pytest.raises(ValueError, match="frozen"):
        body.room(1)


def test_a_room_is_given_back_once() -> None:
    body = Body()
    room = body.room(4)
    write(room, b"abcd")
    room.filled(2)
    with pytest.raises(ValueError, match="given back"):
        room.filled(2)
    with pytest.raises(BufferError, match="given back"):
        memoryview(room)
    assert (body.tobytes(), repr(room)) == (b"ab", "<Room: 4 bytes>")


def test_spare_memory_with_a_live_view_is_not_given_back() -> None:
    body = Body()
    room = body.room(4)
    views = [memoryview(room), memoryview(room)]
    part = views[0][1:]
    views[0].release()
    for left in (2, 1):
        with pytest.raises(BufferError, match=f"{left} views"):
            room.filled(4)
        (views[1] if left == 2 else part).release()
    room.filled(4)
    assert len(body) == 4


@pytest.mark.parametrize(("count", "error"), [(5, ValueError), (-1, ValueError), (2**63, ValueError), ("1", TypeError)])
def test_a_count_that_does_not_fit(count: Any, error: type[Exception]) -> None:
    body = Body()
    room = body.room(4)
    with pytest.raises(error):
        room.filled(count)
    room.filled(0)
    assert len(body) == 0


@pytest.mark.parametrize("count", [2**62, 2**63 - 1])
def test_more_room_than_there_is_memory_is_an_error_and_no_more(count: int) -> None:
    body = Body()
    body.append(b"{}")
    with pytest.raises(MemoryError):
        body.room(count)
    assert body.tobytes() == b"{}"


def test_a_room_that_is_dropped_takes_the_content_along() -> None:
    body = Body()
    body.append(b"{}")
    body.room(4)
    gc.collect()
    with pytest.raises(ValueError, match="room of it is out"):
        body.tobytes()


def test_a_view_outlives_room_and_body() -> None:
    body = Body()
    view = memoryview(body.room(1 << 20))
    del body
    gc.collect()
    view[:] = b"x" * len(view)
    assert view[-1] == ord("x")


@pytest.mark.parametrize("back", ["filled", "dropped"])
def test_a_body_that_is_closed_while_a_room_is_out_stays_closed(back: str) -> None:
    gc.collect()
    tito.trim_memory()
    body = Body(1 << 20)
    room = body.room(4)
    body.close()
    assert (body.closed, tito.memory_stats()["held_bytes"]) == (True, 0)
    write(room, b"abcd")
    if back == "filled":
        room.filled(4)
    del room
    assert tito.memory_stats()["held_bytes"] >= 1 << 20
    assert (body.closed, len(body)) == (True, 0)
