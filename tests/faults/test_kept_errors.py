"""An error that is kept for long, and then dropped, keeps no body alive."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import json
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dynamo_tito import (
    AsyncTitoClient,
    Body,
    MalformedBodyError,
    RoutedExpertsError,
    TitoClient,
    TitoError,
    memory_stats,
    trim_memory,
)
from dynamo_tito._client import decoding
from dynamo_tito._config import HttpLibrary
from dynamo_tito._http.base import HttpResponse
from support.driver import ASYNC, PROMPT, Driver
from support.raw_server import Answer, Close, Pause, RawServer, Reset, Stall, chunked, head, reply
from support.threads import settle

from .cases import BODY, DOCUMENT, LONG, QUICK, TOKENS, Connect, whole

SIZE = 2 << 20
LARGE = BODY + b" " * (SIZE - len(BODY))
PART = LARGE[: SIZE * 3 // 4]
ENOUGH = 1.5
"""Seconds in which that much arrives, however slow the machine."""

FAULTS: dict[str, Answer] = {
    "cut": [head(200, {"content-length": str(SIZE)}), PART, Close()],
    "cut within chunks": [*chunked(200, [PART], end=False), Close()],
    "silent": [head(200, {"content-length": str(SIZE)}), PART, Stall()],
    "reset": [head(200, {"content-length": str(SIZE)}), PART, Pause(0.05), Reset()],
    "silent within chunks": [*chunked(200, [PART], end=False), Stall()],
    "no JSON": reply(200, PART + b"!"),
    "too large": reply(200, LARGE + b" " * SIZE),
    "too large within chunks": [*chunked(200, [LARGE, LARGE]), Close()],
    "no gzip": reply(200, LARGE, headers={"content-encoding": "gzip"}),
    "a cut gzip": reply(200, gzip.compress(LARGE, 0)[:-6], headers={"content-encoding": "gzip"}),
    "another document": reply(200, json.dumps({**DOCUMENT, "choices": []}).encode().ljust(SIZE)),
    "an error with status 200": reply(200, json.dumps({"error": {"message": "no"}}).encode().ljust(SIZE)),
}


@contextmanager
def everything_back() -> Iterator[None]:
    """What was taken from the pool, if anything, is there again at the end; the garbage collector does not help."""
    gc.collect()
    gc.disable()
    try:
        trim_memory()
        before = _requests()
        yield
        if _requests() > before:
            ends = time.monotonic() + LONG
            while memory_stats()["held_bytes"] < SIZE // 2:
                assert time.monotonic() < ends
                time.sleep(0.001)  # the thread of the core's engine lets go a moment later
    finally:
        gc.enable()


def _requests() -> int:
    stats = memory_stats()
    return stats["reused"] + stats["allocated"]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_that_is_kept(connect: Connect, server: RawServer, fault: str) -> None:
    server.play(FAULTS[fault])
    client = connect(max_response_bytes=SIZE * 3 // 2)
    with everything_back(), pytest.raises(TitoError) as kept:
        client.generate(deadline=ENOUGH if "silent" in fault else LONG)
    frames = [entry.frame for entry in kept.traceback]
    # The bytes that arrived and were not passed on are in the frames of the transport.
    held = [frame.f_locals for frame in frames if "_http" in str(frame.code.path)]
    assert len(frames) > 1
    assert not any(held)
    whole(client, server, hits=1)


def errors_freed(client: Driver, **options: Any) -> int:
    """How many errors a call raised. Each is gone once it is dropped; the garbage collector does not help."""
    gone: list[weakref.ref[TitoError]] = []

    async def asked(asynchronous: AsyncTitoClient) -> None:
        # Not outside of the task, which holds what it raises, and is held by its runner's frame.
        try:
            await asynchronous.generate(PROMPT, **options)
        except TitoError as error:
            gone.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        if isinstance(client.client, AsyncTitoClient):
            client.run(asked(client.client))
        else:
            try:
                client.generate(**options)
            except TitoError as error:
                gone.append(weakref.ref(error))
        ends = time.monotonic() + LONG
        while any(error() for error in gone) and time.monotonic() < ends:
            settle()
        assert not any(error() for error in gone)
    finally:
        gc.enable()
    return len(gone)


@pytest.mark.parametrize("fault", ["refused", "unavailable", *FAULTS])
def test_a_dropped_error_is_freed(connect: Connect, server: RawServer, fault: str) -> None:
    """Workers switch the garbage collector off, or freeze it; prompts are in the frames of an error too."""
    server.play({**FAULTS, "refused": reply(400, b"no"), "unavailable": reply(429, b"later")}[fault])
    client = connect(retries=QUICK, max_response_bytes=SIZE * 3 // 2)
    assert errors_freed(client, deadline=ENOUGH if "silent" in fault else LONG) == 1


def test_what_was_decoded_and_then_refused(connect: Connect, server: RawServer) -> None:
    """Routing that shows signs of a broken capture is refused when it is an array already."""
    layers, top_k, rows = 48, 64, len(PROMPT) + len(TOKENS) - 1
    zeros = base64.b64encode(bytes(rows * layers * top_k)).decode()
    experts = {"data": zeros, "shape": [rows, layers, top_k], "start": 0, "dtype": "uint8"}
    choice = {**DOCUMENT["choices"][0], "routed_experts": experts}
    server.play(reply(200, json.dumps({**DOCUMENT, "choices": [choice]}).encode()))
    client = connect(strict_routing=True)
    gc.collect()
    gc.disable()
    try:
        trim_memory()
        with pytest.raises(RoutedExpertsError, match="are zero in all") as kept:
            client.generate(deadline=LONG)
        assert len(kept.traceback) > 1
        assert memory_stats()["held_bytes"] >= 4 * rows * layers * top_k
    finally:
        gc.enable()


def test_a_body_that_a_transport_hands_out_twice() -> None:
    """It belongs to the first call that gets it. The second call raises an error that says this."""
    body = Body()
    body.append(b"{")

    class Twice:
        def send(self, _exchange: Any) -> HttpResponse:
            return HttpResponse(200, {}, body)

        def close(self) -> None:
            pass

    with TitoClient("http://test", model="m", preflight=False, http_client=Twice()) as client:
        with pytest.raises(MalformedBodyError):
            client.generate(PROMPT)
        with pytest.raises(ValueError, match="the body is closed"):
            client.generate(PROMPT)


@pytest.mark.parametrize("library", ASYNC)
@pytest.mark.parametrize("fault", ["silent", "silent within chunks"])
def test_a_call_that_was_cancelled(server: RawServer, library: HttpLibrary, fault: str) -> None:
    server.play(FAULTS[fault])

    async def cancelled() -> asyncio.CancelledError:
        async with AsyncTitoClient(server.url, model="m", http=library, preflight=False) as client:
            call = asyncio.create_task(client.generate(PROMPT, deadline=LONG))
            await asyncio.to_thread(server.wait_until, lambda: server.hits == 1)
            await asyncio.sleep(ENOUGH)
            call.cancel()
            try:
                await call
            except asyncio.CancelledError as error:
                return error
        raise AssertionError("not cancelled")

    with everything_back():
        kept = asyncio.run(cancelled())
    assert kept.__traceback__ is not None


def test_a_call_that_is_cancelled_while_its_body_is_decoded(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = threading.Event(), threading.Event()

    def decode(*_args: Any, **_options: Any) -> None:
        begun.set()
        over.wait(LONG)

    monkeypatch.setattr(decoding, "decode", decode)
    server.play(reply(200, LARGE))

    async def cancelled() -> None:
        async with AsyncTitoClient(server.url, model="m", preflight=False) as client:
            call = asyncio.create_task(client.generate(PROMPT, deadline=LONG))
            assert await asyncio.to_thread(begun.wait, LONG)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    try:
        with everything_back():
            asyncio.run(cancelled())
    finally:
        over.set()
