"""No call outlasts its deadline, however the server dawdles; and who leaves, leaves for good."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._errors import TransportError
from support.driver import PROMPT, Driver, Kind
from support.raw_server import Answer, Pause, RawServer, Stall, head, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]

TRICKLE = [step for _ in range(400) for step in (b"x", Pause(0.05))]

DAWDLING: dict[str, tuple[Answer, str]] = {
    "no answer": ([Stall()], "headers"),
    "trickling headers": ([b"HTTP/1.1 200 OK\r\nx: ", *TRICKLE], "headers"),
    "no body": ([head(200, {"content-length": "10"}), Stall()], "body"),
    "half a body": ([head(200, {"content-length": "10"}) + b"12345", Stall()], "body"),
    "a trickling body": ([head(200, {"content-length": "400"}), *TRICKLE], "body"),
    "trickling chunks": (
        [
            head(200, {"transfer-encoding": "chunked"}),
            *(step for _ in range(400) for step in (b"1\r\nx\r\n", Pause(0.05))),
        ],
        "body",
    ),
    "a trickling error": ([head(500, {"content-length": "400"}), *TRICKLE], "body"),
}


@pytest.mark.parametrize("how", DAWDLING)
def test_a_dawdling_server(connect: Connect, server: RawServer, recorded: Recorded, how: str) -> None:
    answer, phase = DAWDLING[how]
    server.play(answer, reply(200, recorded("generate_basic")))
    client = connect()
    started = time.monotonic()
    with pytest.raises(TransportError, match="the deadline passed while") as caught:
        client.generate(deadline=0.4)
    took = time.monotonic() - started
    assert 0.4 <= took < 5.0
    assert caught.value.phase == phase
    assert server.hits == 1
    server.wait_until(lambda: server.left_early == 1)
    # Another call is none the worse.
    assert len(client.generate().token_ids) == 4


def test_the_clients_own_timeout(connect: Connect, server: RawServer) -> None:
    server.play([Stall()])
    with pytest.raises(TransportError, match="the deadline passed"):
        connect(timeout=0.3).generate()


def test_a_call_may_take_longer_than_the_client_allows(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play([Pause(0.4), *reply(200, recorded("generate_basic"))])
    client = connect(timeout=0.1)
    assert len(client.generate(deadline=20.0).token_ids) == 4
    assert len(client.generate(deadline=float("inf")).token_ids) == 4


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_deadlines_that_make_no_sense(connect: Connect, server: RawServer, deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline must be a positive number"):
        connect().generate(deadline=deadline)
    assert server.hits == 0


def test_waiting_for_a_free_connection_counts(connect: Connect, server: RawServer) -> None:
    server.play([Stall()])
    client = connect(max_concurrency=1)
    if isinstance(client.client, AsyncTitoClient):
        errors = client._runner.run(_two(client.client))
    else:
        errors = _two_threads(client)
    assert [error.phase for error in errors] == ["connect", "headers"]
    assert server.hits == 1


async def _two(client: AsyncTitoClient) -> list[TransportError]:
    first = asyncio.create_task(client.generate(PROMPT, deadline=1.0))
    await asyncio.sleep(0.2)
    errors = []
    for call in (client.generate(PROMPT, deadline=0.2), first):
        with pytest.raises(TransportError) as caught:
            await call
        errors.append(caught.value)
    return errors


def _two_threads(client: Driver) -> list[TransportError]:
    errors: list[TransportError] = []

    def call(deadline: float) -> None:
        try:
            client.generate(deadline=deadline)
        except TransportError as error:
            errors.append(error)

    first = threading.Thread(target=call, args=(1.0,), daemon=True)
    first.start()
    time.sleep(0.2)
    call(0.2)
    first.join()
    return errors


@pytest.mark.parametrize("kind", ["httpx", "aiohttp"])
@pytest.mark.parametrize(
    "answer", [[Stall()], [head(200, {"content-length": "10"}), Stall()]], ids=["before the answer", "within it"]
)
def test_cancelling_closes_the_connection(kind: Kind, server: RawServer, recorded: Recorded, answer: Answer) -> None:
    server.play(answer, reply(200, recorded("generate_basic")))

    async def leave(client: AsyncTitoClient) -> None:
        call = asyncio.create_task(client.generate(PROMPT))
        await asyncio.to_thread(server.wait_until, lambda: server.hits == 1)
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(server.wait_until, lambda: server.left_early == 1)

    with Driver(kind, server.url, max_concurrency=1) as client:
        assert isinstance(client.client, AsyncTitoClient)
        client._runner.run(leave(client.client))
        # Its place is free again.
        assert len(client.generate().token_ids) == 4


@pytest.mark.parametrize("kind", ["httpx", "aiohttp"])
def test_cancelling_at_every_turn_of_the_loop(kind: Kind, server: RawServer, recorded: Recorded) -> None:
    """Wherever a call is when it is cancelled, its place in the pool comes back."""
    server.play(reply(200, recorded("generate_basic")))

    async def leave_after(client: AsyncTitoClient, turns: int) -> bool:
        call = asyncio.create_task(client.generate(PROMPT))
        for _ in range(turns):
            await asyncio.sleep(0)
        done = call.done()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return done

    with Driver(kind, server.url, max_concurrency=1) as client:
        assert isinstance(client.client, AsyncTitoClient)
        for turns in range(60):
            client._runner.run(leave_after(client.client, turns))
        assert len(client.generate(deadline=20.0).token_ids) == 4


def test_a_closed_client(connect: Connect, server: RawServer) -> None:
    client = connect()
    if isinstance(client.client, AsyncTitoClient):
        client._runner.run(client.client.aclose())
    else:
        client.client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.generate()
    assert server.hits == 0


def test_another_event_loop(server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    with Driver("httpx", server.url) as driver:
        driver.generate()
        client: Any = driver.client
        call = client.generate(PROMPT)
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(call)
