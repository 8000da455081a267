"""No call outlasts its deadline, however slow the server is. A cancelled call leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._errors import TransportError
from support.driver import PROMPT, Driver, Kind
from support.raw_server import Answer, Pause, RawServer, Stall, head, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]


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
        errors = client._runner.run(_two(client.client, server))
    else:
        errors = _two_threads(client, server)
    assert [error.phase for error in errors] == ["connect", "headers"]
    assert server.hits == 1


async def _two(client: AsyncTitoClient, server: RawServer) -> list[TransportError]:
    first = asyncio.create_task(client.generate(PROMPT))
    await asyncio.to_thread(server.wait_until, lambda: server.hits == 1)
    with pytest.raises(TransportError) as late:
        await client.generate(PROMPT, deadline=0.2)
    server.drop_connections()
    with pytest.raises(TransportError) as lost:
        await first
    return [late.value, lost.value]


def _two_threads(client: Driver, server: RawServer) -> list[TransportError]:
    errors: list[TransportError] = []

    def call(deadline: float | None) -> None:
        try:
            client.generate(deadline=deadline)
        except TransportError as error:
            errors.append(error)

    first = threading.Thread(target=call, args=(None,), daemon=True)
    first.start()
    server.wait_until(lambda: server.hits == 1)
    call(0.2)
    server.drop_connections()
    first.join()
    return errors


@pytest.mark.parametrize("kind", ["native", "httpx"])
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


def test_a_closed_client(connect: Connect, server: RawServer) -> None:
    client = connect()
    if isinstance(client.client, AsyncTitoClient):
        client._runner.run(client.client.aclose())
    else:
        client.client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.generate()
    assert server.hits == 0
