"""Large bodies, of which the core's engine is woken only when much has come: wherever they pause, it sees their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dynamo_tito import Limits
from dynamo_tito._errors import ServerError, TransportError
from dynamo_tito.simulator.http import Step
from support.driver import Driver, Kind
from support.raw_server import Answer, Close, Pause, RawServer, Stall, head, reply
from support.small import generated

MARK = 512 << 10
"""Bytes that wake the engine, of a body that has as many to come."""
LONG = 60.0
"""Seconds that nothing takes, however slow the machine."""

TOKENS = list(range(100_000, 200_000))
BODY = json.dumps(generated(TOKENS)).encode()
SMALL = json.dumps(generated([7, 8, 9])).encode()
PAUSE = Pause(0.05)

Connect = Callable[..., Driver]


@pytest.fixture(params=["native", "blocking"])
def connect(request: pytest.FixtureRequest, server: RawServer) -> Iterator[Connect]:
    kind: Kind = request.param
    with ExitStack() as stack:

        def make(**options: Any) -> Driver:
            return stack.enter_context(Driver(kind, server.url, **options))

        yield make


def announced(body: bytes = BODY, status: int = 200) -> bytes:
    return head(status, {"content-type": "application/json", "content-length": str(len(body))})


def answered(client: Driver, expected: list[int]) -> None:
    tokens: list[int] = client.generate(deadline=LONG).token_ids.tolist()
    assert tokens == expected


def test_the_body_is_large() -> None:
    assert len(BODY) > 3 * MARK


ENDS = [1, 100, MARK - 1, MARK, MARK + 1, 2 * MARK, len(BODY) - 1, len(BODY)]
"""Bytes that come after a pause."""


@pytest.mark.parametrize("rest", ENDS)
def test_a_pause_in_the_body(connect: Connect, server: RawServer, rest: int) -> None:
    """And the next answer on the connection is heard from its first byte on."""
    at = len(BODY) - rest
    server.play([announced(), BODY[:at], PAUSE, BODY[at:]])
    client = connect()
    answered(client, TOKENS)
    start = announced(SMALL)
    server.play([start[:9], PAUSE, start[9:], PAUSE, SMALL[:1], PAUSE, SMALL[1:]])
    answered(client, [7, 8, 9])
    assert server.connections == 1


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_the_last_part_comes_in_pieces(connect: Connect, server: RawServer, size: int) -> None:
    at = len(BODY) - MARK - 5_000
    ending = [step for begin in range(at, len(BODY), size) for step in (BODY[begin : begin + size], Pause(0.0005))]
    server.play([announced(), BODY[:at], PAUSE, *ending])
    answered(connect(), TOKENS)


def in_chunks(*parts: bytes) -> Answer:
    """A chunk each, with a pause before the last byte, before its end, and before the next one."""
    steps: list[Step] = [head(200, {"content-type": "application/json", "transfer-encoding": "chunked"})]
    for part in parts:
        steps += [b"%x\r\n" % len(part), part[:-1], PAUSE, part[-1:], PAUSE, b"\r\n", PAUSE]
    return [*steps, b"0\r\n", PAUSE, b"\r\n"]


@pytest.mark.parametrize("first", [1, MARK - 1, MARK, MARK + 1, len(BODY) - 1])
def test_a_pause_around_chunks(connect: Connect, server: RawServer, first: int) -> None:
    server.play(in_chunks(BODY[:first], BODY[first:]))
    client = connect()
    answered(client, TOKENS)
    server.play(reply(200, SMALL))
    answered(client, [7, 8, 9])
    assert server.connections == 1


@pytest.mark.parametrize("missing", ENDS)
def test_a_body_that_is_cut(connect: Connect, server: RawServer, missing: int) -> None:
    came = len(BODY) - missing
    server.play([announced(), BODY[:came], PAUSE, Close()])
    with pytest.raises(TransportError, match=f"the body ended after {came} of {len(BODY)} bytes") as caught:
        connect().generate(deadline=LONG)
    assert caught.value.phase == "body"


@pytest.mark.parametrize("ceiling", [1_000, MARK, 2 * MARK])
def test_an_error_is_read_to_its_ceiling(connect: Connect, server: RawServer, ceiling: int) -> None:
    """The rest of it, which does not come, is not waited for."""
    error = json.dumps({"error": {"message": "x" * 4 * MARK}}).encode()
    server.play([announced(error, 400), error[:ceiling], Stall()])
    with pytest.raises(ServerError) as caught:
        connect(limits=Limits(max_error_bytes=ceiling)).generate(deadline=LONG)
    assert caught.value.status == 400
