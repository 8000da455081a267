"""Large bodies of a known length: aiohttp's parser sees only their first bytes."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dynamo_tito._config import RetryPolicy
from dynamo_tito._errors import TransportError
from dynamo_tito._http.direct import receive_into
from support.authority import Authority
from support.driver import Driver
from support.raw_server import Answer, Close, Endlessly, RawServer, Reset, Stall, Until, chunked, head, reply
from support.small import generated

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
LONG = 60.0
"""Seconds that nothing takes, however slow the machine."""

TOKENS = list(range(100_000, 200_000))
DOCUMENT = generated(TOKENS)
BODY = json.dumps(DOCUMENT).encode()
HEAD = head(200, {"content-type": "application/json", "content-length": str(len(BODY))})

Connect = Callable[..., Driver]


@pytest.fixture(params=LOOPS)
def connect(request: pytest.FixtureRequest, server: RawServer) -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(url: str | None = None, **options: Any) -> Driver:
            loop = LOOPS[request.param]
            return stack.enter_context(Driver("aiohttp", url or server.url, loop_factory=loop, **options))

        yield make


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each answer brought past the parser."""
    counts: list[int] = []

    async def counted(room: Any, transport: Any) -> int:
        counts.append(0)
        counts[-1] = await receive_into(room, transport)
        return counts[-1]

    monkeypatch.setattr("dynamo_tito._http.aiohttp.receive_into", counted)
    return counts


def answered(client: Driver) -> bool:
    tokens: list[int] = client.generate(deadline=LONG).token_ids.tolist()
    return tokens == TOKENS


def test_what_comes_behind_the_head_passes_the_parser(connect: Connect, server: RawServer, passed: list[int]) -> None:
    server.play([HEAD, Until(lambda: len(passed) == server.hits), BODY])
    client = connect()
    for call in range(1, 6):
        assert answered(client)
        assert passed == call * [len(BODY)]
    assert (server.hits, server.connections) == (5, 1)


@pytest.mark.parametrize("loop", LOOPS)
def test_over_tls(loop: str, tmp_path: Path, passed: list[int]) -> None:
    authority = Authority(tmp_path)
    with (
        RawServer(tls=authority.server()) as server,
        Driver("aiohttp", server.url, tls=authority.trusted(), loop_factory=LOOPS[loop]) as client,
    ):
        server.play([HEAD, Until(lambda: len(passed) == server.hits), BODY])
        for call in range(1, 6):
            assert answered(client)
            assert passed == call * [len(BODY)]
        assert (server.hits, server.connections) == (5, 1)


@pytest.mark.parametrize("at", [0, 1, 2, len(BODY) // 2, len(BODY) - 1, len(BODY)])
def test_the_head_comes_with_any_part_of_the_body(
    connect: Connect, server: RawServer, passed: list[int], at: int
) -> None:
    client = connect()
    # The rest is written once the client waits for it.
    waits = Until(lambda: len(passed) == 1)
    server.play([HEAD + BODY[:at], *([waits] if at < len(BODY) else []), BODY[at:]])
    assert answered(client)
    # Of a beginning that takes several reads the parser has seen one or more.
    assert [0 < count <= len(BODY) for count in passed] in ([], [True])
    assert passed or at == len(BODY)
    server.play(reply(200, BODY))
    assert answered(client)
    assert server.connections == 1


def test_in_small_pieces(connect: Connect, server: RawServer, passed: list[int]) -> None:
    size = 10_000
    server.play([HEAD, *(BODY[at : at + size] for at in range(0, len(BODY), size))])
    assert answered(connect())
    assert len(passed) == 1


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["FIN", "RST"])
@pytest.mark.parametrize("at", [0, 1, len(BODY) // 2, len(BODY) - 1])
def test_a_body_that_is_cut(
    connect: Connect, server: RawServer, passed: list[int], at: int, end: Close | Reset
) -> None:
    client = connect(retries=RetryPolicy(attempts=3, initial=0.0, maximum=0.0))
    cut: Answer = [HEAD, Until(lambda: len(passed) == 1), BODY[:at], end]
    server.play(cut)
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase == "body"
    assert (server.hits, len(passed)) == (1, 1)
    server.play(reply(200, BODY))
    assert answered(client)
    assert (server.hits, server.connections) == (2, 2)


def test_a_body_that_stalls(connect: Connect, server: RawServer, passed: list[int]) -> None:
    client = connect()
    server.play([HEAD, BODY[:-1], Stall()])
    with pytest.raises(TransportError, match="deadline"):
        client.generate(deadline=1.0)
    assert len(passed) == 1
    client.run(_until(lambda: server.open_connections == 0))
    server.play(reply(200, BODY))
    assert answered(client)
    assert (server.hits, server.connections) == (2, 2)


def test_a_body_that_goes_on(connect: Connect, server: RawServer, passed: list[int]) -> None:
    """More than was announced: the answer is the announced part, and the connection is not used again."""
    client = connect()
    server.play([HEAD + BODY, Endlessly(BODY)])
    assert answered(client)
    client.run(_until(lambda: server.open_connections == 0))
    server.play(reply(200, BODY))
    assert answered(client)
    assert (server.hits, server.connections) == (2, 2)
    assert len(passed) == 2


def test_an_answer_to_no_request(connect: Connect, server: RawServer) -> None:
    """A second answer is discarded, whether it comes with the first or later. It closes its connection."""
    client = connect()
    other = json.dumps(DOCUMENT | {"choices": []}).encode()
    stray = head(200, {"content-type": "application/json", "content-length": str(len(other))}) + other
    later: list[bool] = []
    for gap in ([], [Until(lambda: bool(later))]):
        before = server.connections
        server.play([HEAD + BODY, *gap, stray], reply(200, BODY))
        assert answered(client)
        later.append(True)
        client.run(_until(lambda: server.open_connections == 0))
        assert answered(client)
        assert server.connections == before + (2 if before == 0 else 1)
        later.clear()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110 - anything may be asked
            await asyncio.sleep(0.001)


def test_a_connection_that_ends_while_idle(connect: Connect, server: RawServer) -> None:
    client = connect()
    server.play(reply(200, BODY))
    for call in range(1, 4):
        assert answered(client)
        server.drop_connections()
        server.wait_until(lambda: server.open_connections == 0)
        assert (server.hits, server.connections) == (call, call)


def test_a_connection_that_breaks_while_idle_raises_nothing(
    connect: Connect, server: RawServer, passed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    later: list[bool] = []
    server.play([HEAD, Until(lambda: bool(passed)), BODY, Until(lambda: bool(later)), Reset()], reply(200, BODY))
    assert answered(client)
    later.append(True)
    client.run(_until(lambda: server.open_connections == 0))
    assert answered(client)
    gc.collect()
    assert caplog.records == []


def test_errors_and_chunks_do_not(connect: Connect, server: RawServer, passed: list[int]) -> None:
    client = connect()
    server.play(chunked(200, [BODY[:1000], BODY[1000:]]))
    assert answered(client)
    server.play(reply(500, BODY))
    with pytest.raises(Exception, match="HTTP 500"):
        client.generate(deadline=LONG)
    assert passed == []


@pytest.mark.parametrize("cancelled_at", [0, 1, len(BODY) // 2])
def test_cancelled_within(connect: Connect, server: RawServer, passed: list[int], cancelled_at: int) -> None:
    client = connect()
    server.play([HEAD + BODY[:cancelled_at], Stall()])

    async def cancelled() -> None:
        call = asyncio.ensure_future(client.client.generate([1, 2, 3]))  # type: ignore[arg-type]
        await _until(lambda: bool(passed))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    client.run(cancelled())
    client.run(_until(lambda: server.open_connections == 0))
    server.play(reply(200, BODY))
    assert answered(client)
    assert (server.hits, server.connections) == (2, 2)
