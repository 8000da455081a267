"""Cancelling a call at every await frees its slot and everything else that it holds."""

from __future__ import annotations

import asyncio
import gc
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import pytest

from dynamo_tito import AsyncTitoClient, RetryPolicy
from dynamo_tito._config import HttpLibrary
from support.authority import Authority
from support.driver import ASYNC, PROMPT
from support.raw_server import Answer, Pause, RawServer, head, reply

from .cases import BODY, GOOD, LONG, TOKENS

T = TypeVar("T")
Libraries = pytest.mark.parametrize("library", ASYNC)

IN_PIECES: Answer = [
    head(200, {"content-length": str(len(BODY))}),
    Pause(0.001),
    BODY[:50],
    Pause(0.001),
    BODY[50:],
]


@types.coroutine
def cancelled_at(step: int, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await, and have the task cancelled where it waits for the ``step``-th time."""
    waiting = coroutine.__await__()
    failure: BaseException | None = None
    for turn in itertools.count():
        try:
            future = next(waiting) if failure is None else waiting.throw(failure)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if turn == step:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        failure = None
        try:
            yield future
        except BaseException as error:  # noqa: BLE001 - whatever comes is the coroutine's
            failure = error
    raise AssertionError("unreachable")


async def everywhere(client: AsyncTitoClient, server: RawServer, call: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """Cancel ever later, until the call is over before it is cancelled. How often that was."""
    for step in itertools.count():
        before = server.hits
        task = asyncio.create_task(_awaited(step, call()))
        await asyncio.wait([task])
        await asyncio.to_thread(server.wait_until, lambda: server.busy == 0)
        assert server.hits - before <= 1
        done = not task.cancelled()
        if done:
            assert task.result().token_ids.tolist() == TOKENS
        # The only place is free, and there is no task but this one.
        assert (await client.generate(PROMPT, deadline=LONG)).token_ids.tolist() == TOKENS
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if done:
            return step
        assert step < 500
    raise AssertionError("unreachable")


async def _awaited(step: int, coroutine: Coroutine[Any, Any, T]) -> T:
    return await cancelled_at(step, coroutine)


def run(library: HttpLibrary, server: RawServer, *, fewest: int, fresh: bool, **options: Any) -> None:
    """Cancel calls of a client everywhere, each on a new connection if ``fresh``."""

    async def main() -> int:
        options.setdefault("preflight", False)
        async with AsyncTitoClient(server.url, model="m", http=library, max_concurrency=1, **options) as client:

            async def call() -> Any:
                return await client.generate(PROMPT, deadline=LONG)

            async def call_on_a_new_connection() -> Any:
                async with AsyncTitoClient(server.url, model="m", http=library, **options) as another:
                    return await another.generate(PROMPT, deadline=LONG)

            steps = await everywhere(client, server, call_on_a_new_connection if fresh else call)
        await asyncio.sleep(0.01)
        return steps

    steps = asyncio.run(main())
    # Of what was left open the collector would complain, and a complaint is an error.
    gc.collect()
    # The core's engine waits once, for all that happens to a request.
    assert steps >= (1 if library == "native" else fewest)
    server.wait_until(lambda: server.open_connections == 0)


@Libraries
@pytest.mark.parametrize("fresh", [True, False])
def test_a_call(library: HttpLibrary, server: RawServer, *, fresh: bool) -> None:
    server.play(IN_PIECES)
    run(library, server, fewest=2 if fresh else 1, fresh=fresh)


@Libraries
@pytest.mark.parametrize("fresh", [True, False])
def test_over_tls(library: HttpLibrary, tmp_path_factory: pytest.TempPathFactory, *, fresh: bool) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with RawServer([IN_PIECES], tls=authority.server()) as server:
        run(library, server, fewest=2 if fresh else 1, fresh=fresh, tls=authority.trusted())


@Libraries
def test_during_the_request_for_the_context_length(library: HttpLibrary, server: RawServer) -> None:
    server.play(GOOD)
    server.models = [Pause(0.001), *reply(200, {"data": [{"id": "m", "max_model_len": 100}]})]
    run(library, server, fewest=3, fresh=True, preflight=True)


@Libraries
def test_during_the_wait_before_a_retry(library: HttpLibrary, server: RawServer) -> None:
    server.play(lambda _: reply(429, {}) if server.hits % 2 else GOOD)
    policy = RetryPolicy(attempts=9, initial=0.001, maximum=0.001)

    async def main() -> None:
        async with AsyncTitoClient(
            server.url,
            model="m",
            http=library,
            retries=policy,
            preflight=False,
            max_concurrency=1,
        ) as client:
            for step in range(12):
                task = asyncio.create_task(_awaited(step, client.generate(PROMPT, deadline=LONG)))
                await asyncio.wait([task])
                assert len((await client.generate(PROMPT, deadline=LONG)).token_ids) == 3
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    gc.collect()


@Libraries
def test_while_a_large_body_is_decoded_in_a_thread(library: HttpLibrary, server: RawServer) -> None:
    server.play(GOOD)
    run(library, server, fewest=2, fresh=False, thread_from_bytes=1)
