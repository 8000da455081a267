"""Too few descriptors, several event loops, a forked child: other calls are not affected."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dynamo_tito import AsyncTitoClient, TitoClient, TransportError
from support.authority import Authority
from support.driver import PROMPT, Driver, Kind
from support.processes import run
from support.raw_server import RawServer, Stall

from .cases import GOOD, LONG, answered, whole


def test_no_descriptor_is_left(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    done = run("-W", "error", str(Path(__file__).with_name("exhausted.py")), kind, server.url)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.hits == 5


def test_a_library_belongs_to_the_loop_that_used_it_first(server: RawServer) -> None:
    server.play(GOOD)
    with Driver("httpx", server.url) as driver:
        answered(driver)
        client: Any = driver.client
        with pytest.raises(RuntimeError, match="in use on another event loop; make one per loop, or use http='native'"):
            asyncio.run(client.generate(PROMPT))
        whole(driver, server, hits=1)
        assert server.connections == 1


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_one_client_on_one_loop_after_the_other(server: RawServer, loop: str) -> None:
    """Neither closes it. Their connections are the client's, so the second loop finds that of the first."""
    server.play(GOOD)
    client = AsyncTitoClient(server.url, model="m", preflight=False)
    for _ in range(3):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            assert len(runner.run(client.generate(PROMPT, deadline=LONG)).token_ids) == 3
    asyncio.run(client.aclose())
    server.wait_until(lambda: server.open_connections == 0)
    assert (server.hits, server.connections) == (3, 1)


def test_a_loop_that_ends_with_calls_on_their_way(server: RawServer) -> None:
    """Their places and their connections are given up, and the next loop has all of them."""
    client = AsyncTitoClient(server.url, model="m", preflight=False, max_concurrency=4)

    async def leave() -> None:
        calls = [asyncio.create_task(client.generate(PROMPT, deadline=LONG)) for _ in range(8)]
        await asyncio.to_thread(server.wait_until, lambda: server.hits == 4)
        assert not any(call.done() for call in calls)

    async def all_of_them() -> None:
        for answer in await asyncio.gather(*(client.generate(PROMPT, deadline=LONG) for _ in range(8))):
            assert len(answer.token_ids) == 3
        await client.aclose()

    server.play([Stall()])
    asyncio.run(leave())
    server.wait_until(lambda: server.open_connections == 0)
    server.play(GOOD)
    asyncio.run(all_of_them())
    assert server.hits == 12


@pytest.mark.parametrize("shared", [True, False])
def test_several_loops_at_once(server: RawServer, *, shared: bool) -> None:
    """With a client for all of them, and with one for each."""
    server.play(GOOD)
    calls, results, loops = 30, [], 4
    one = AsyncTitoClient(server.url, model="m", preflight=False)
    together = threading.Barrier(loops)

    async def work() -> None:
        client = one if shared else AsyncTitoClient(server.url, model="m", preflight=False)
        together.wait(LONG)
        answers = await asyncio.gather(*(client.generate(PROMPT, deadline=LONG) for _ in range(calls)))
        results.append([answer.token_ids.tolist() for answer in answers])
        if not shared:
            await client.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(work(),), daemon=True) for _ in range(loops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert results == [[[7, 8, 9]] * calls] * loops
    assert server.hits == loops * calls
    asyncio.run(one.aclose())


def test_closed_on_one_loop_while_another_waits(server: RawServer) -> None:
    server.play([Stall()])
    client = AsyncTitoClient(server.url, model="m", preflight=False)
    errors: list[TransportError] = []

    async def wait() -> None:
        try:
            await client.generate(PROMPT, deadline=LONG)
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=asyncio.run, args=(wait(),), daemon=True)
    thread.start()
    server.wait_until(lambda: server.hits == 1)
    asyncio.run(client.aclose())
    thread.join(LONG)
    assert ["the client was closed" in str(error) for error in errors] == [True]
    server.wait_until(lambda: server.open_connections == 0)


def in_a_child(work: Callable[[], object]) -> str:
    """What came of it in a forked child: the error's words, or "done"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            said = "done"
        except BaseException as error:  # noqa: BLE001 - sent to the parent
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)  # without the parent's test run, and its cleaning up
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def closed(client: AsyncTitoClient | TitoClient) -> None:
    if isinstance(client, TitoClient):
        client.close()
    else:
        asyncio.run(client.aclose())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # which is what is tested
@pytest.mark.parametrize("tls", [False, True])
def test_a_forked_child_does_not_affect_its_parent(
    kind: Kind, tmp_path_factory: pytest.TempPathFactory, *, tls: bool
) -> None:
    """Its calls raise an error, and it may close the client that it inherited. That of the parent still works."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    options: dict[str, Any] = {"tls": authority.trusted()} if tls else {}
    with (
        RawServer([GOOD], tls=authority.server() if tls else None) as server,
        Driver(kind, server.url, **options) as driver,
    ):
        answered(driver)
        client = driver.client

        def call() -> object:
            if isinstance(client, TitoClient):
                return client.generate(PROMPT)
            return asyncio.run(client.generate(PROMPT))

        told = "RuntimeError: the client was made in another process; make one after the fork"
        assert in_a_child(call) == told
        assert answered(driver) == [7, 8, 9]
        assert in_a_child(lambda: closed(client)) == "done"
        whole(driver, server, hits=2)
        # All of it over one connection, which no child has touched.
        assert server.connections == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_with_a_client_of_its_own(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    with Driver(kind, server.url) as driver:
        answered(driver)

        def work() -> None:
            with Driver(kind, server.url) as own:
                answered(own)

        assert in_a_child(work) == "done"
        whole(driver, server, hits=2)
