"""Errors may be kept for long, by whoever reports them at the end of a step, and then dropped: no body stays."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dynamo_tito import AsyncTitoClient, TitoError, memory_stats, trim_memory
from dynamo_tito._config import HttpLibrary
from support.driver import PROMPT
from support.raw_server import Answer, Close, Pause, RawServer, Reset, Stall, chunked, head, reply

from .cases import BODY, DOCUMENT, LONG, QUICK, SHORT, Connect, whole

SIZE = 2 << 20
LARGE = BODY + b" " * (SIZE - len(BODY))
PART = LARGE[: SIZE * 3 // 4]

FAULTS: dict[str, Answer] = {
    "cut": [head(200, {"content-length": str(SIZE)}), PART, Close()],
    "cut within chunks": [*chunked(200, [PART], end=False), Close()],
    "silent": [head(200, {"content-length": str(SIZE)}), PART, Stall()],
    "reset": [head(200, {"content-length": str(SIZE)}), PART, Pause(0.05), Reset()],
    "silent within chunks": [*chunked(200, [PART], end=False), Stall()],
    "no JSON": reply(200, PART + b"!"),
    "another document": reply(200, json.dumps({**DOCUMENT, "choices": []}).encode().ljust(SIZE)),
    "an error with status 200": reply(200, json.dumps({"error": {"message": "no"}}).encode().ljust(SIZE)),
}


@contextmanager
def everything_back() -> Iterator[None]:
    """What was taken from the pool is there again at the end, without the help of the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        trim_memory()
        yield
        assert memory_stats()["held_bytes"] >= SIZE // 2
    finally:
        gc.enable()


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_that_is_kept(connect: Connect, server: RawServer, fault: str) -> None:
    server.play(FAULTS[fault])
    client = connect()
    with everything_back(), pytest.raises(TitoError) as kept:
        client.generate(deadline=SHORT if "silent" in fault else LONG)
    assert len(kept.traceback) > 1
    whole(client, server, hits=1)


@pytest.mark.parametrize("fault", ["refused", "unavailable", *FAULTS])
def test_an_error_that_is_dropped_is_gone(connect: Connect, server: RawServer, fault: str) -> None:
    """Workers switch the garbage collector off, or freeze it; prompts are in the frames of an error too."""
    server.play({**FAULTS, "refused": reply(400, b"no"), "unavailable": reply(429, b"later")}[fault])
    client = connect(retries=QUICK)
    gone: list[weakref.ref[TitoError]] = []
    deadline = SHORT if "silent" in fault else LONG

    async def asked(asynchronous: AsyncTitoClient) -> None:
        # Not outside of the task, which holds what it raises, and is held by its runner's frame.
        try:
            await asynchronous.generate(PROMPT, deadline=deadline)
        except TitoError as error:
            gone.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        if isinstance(client.client, AsyncTitoClient):
            client.run(asked(client.client))
        else:
            try:
                client.generate(deadline=deadline)
            except TitoError as error:
                gone.append(weakref.ref(error))
        ends = time.monotonic() + LONG
        while any(error() for error in gone) and time.monotonic() < ends:
            time.sleep(0.005)  # the thread that decodes lets go a moment later
        assert [error() for error in gone] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
@pytest.mark.parametrize("fault", ["silent", "silent within chunks"])
def test_a_call_that_was_cancelled(server: RawServer, library: HttpLibrary, fault: str) -> None:
    server.play(FAULTS[fault])

    async def cancelled() -> asyncio.CancelledError:
        async with AsyncTitoClient(server.url, model="m", http=library, preflight=False) as client:
            call = asyncio.create_task(client.generate(PROMPT, deadline=LONG))
            await asyncio.to_thread(server.wait_until, lambda: server.hits == 1)
            await asyncio.sleep(SHORT)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError as error:
                return error
        raise AssertionError("not cancelled")

    with everything_back():
        kept = asyncio.run(cancelled())
    assert kept.__traceback__ is not None
