"""Too few descriptors, two event loops, a forked child: other calls are not affected."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_tito import AsyncTitoClient, TitoClient
from support.authority import Authority
from support.driver import ASYNC, PROMPT, Driver, Kind
from support.processes import run
from support.raw_server import RawServer

from .cases import GOOD, LONG, answered, whole


def test_no_descriptor_is_left(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    done = run("-W", "error", str(Path(__file__).with_name("exhausted.py")), kind, server.url)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.hits == 5


@pytest.mark.parametrize("kind", ASYNC)
def test_a_client_belongs_to_the_loop_that_used_it_first(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    with Driver(kind, server.url) as driver:
        answered(driver)
        client: Any = driver.client
        with pytest.raises(RuntimeError, match="in use on another event loop; make one per loop"):
            asyncio.run(client.generate(PROMPT))
        whole(driver, server, hits=1)
        assert server.connections == 1


@pytest.mark.parametrize("kind", ASYNC)
def test_after_its_loop_is_gone(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    client = AsyncTitoClient(server.url, model="m", http=kind, preflight=False)  # type: ignore[arg-type]

    async def once() -> int:
        try:
            return len((await client.generate(PROMPT, deadline=LONG)).token_ids)
        finally:
            await client._runner.transport.aclose()
            await asyncio.sleep(0)

    assert asyncio.run(once()) == 3
    with pytest.raises(RuntimeError, match="make one per loop"):
        asyncio.run(once())
    assert server.hits == 1


@pytest.mark.parametrize("kind", ASYNC)
def test_two_loops_at_once(kind: Kind, server: RawServer) -> None:
    """Each has its own client. They share nothing."""
    server.play(GOOD)
    calls, results = 30, []

    def work() -> None:
        with Driver(kind, server.url) as driver:
            results.append([answered(driver) for _ in range(calls)])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[[7, 8, 9]] * calls] * 2
    assert server.hits == 2 * calls


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
