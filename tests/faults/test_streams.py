"""Streams that break off, dawdle or never end: what was whole is kept, nothing is sampled twice, nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from dynamo_tito import (
    AsyncTitoClient,
    AsyncTitoStream,
    Completion,
    MalformedBodyError,
    TitoClient,
    TitoError,
    TitoStream,
    TransportError,
)
from dynamo_tito._config import HttpLibrary
from dynamo_tito.simulator.http import Step
from support.driver import PROMPT, Kind
from support.raw_server import Answer, Close, Endlessly, Pause, RawServer, Received, Reset, Stall, chunked, head
from support.small import streamed
from support.threads import settle

from .cases import GOOD, LONG, QUICK, SHORT, TOKENS, Connect, whole
from .test_cancellation import Libraries, cancelled_at
from .test_kept_errors import SIZE, everything_back

EVENTS = streamed(TOKENS)
STREAM: Answer = chunked(200, EVENTS)
WHOLE = b"".join(step for step in STREAM if isinstance(step, bytes))
HEAD = head(200, {"transfer-encoding": "chunked"})
CUT: Answer = chunked(200, EVENTS[:2], end=False)


def either(request: Received) -> Answer:
    """A stream where one is asked for."""
    return STREAM if request.json.get("stream") else GOOD


def test_a_connection_cut_at_every_byte(connect: Connect, server: RawServer) -> None:
    """The prefix has the tokens of the events that are whole, and each request was sampled once."""
    client = connect(retries=QUICK)
    ends = [WHOLE.index(event) + len(event) for event in EVENTS]
    for at in range(len(WHOLE)):
        server.play([WHOLE[:at], Close()])
        kept = client.generate(on_interrupt="return", deadline=LONG)
        count = sum(at >= end for end in ends[: len(TOKENS)])
        tokens = kept.token_ids.tolist()
        assert tokens == TOKENS[: len(tokens)]
        assert len(tokens) == count
        if at < ends[-1]:
            assert kept.aborted is not (len(tokens) == len(TOKENS))
        assert len(kept.timing.arrivals) == len(tokens)  # type: ignore[union-attr]
    assert server.hits == len(WHOLE)
    for at in range(0, ends[-1], 7):
        server.play([WHOLE[:at], Close()])
        with pytest.raises((TransportError, MalformedBodyError)) as caught:
            client.generate(stream=True, deadline=LONG)
        assert "deadline" not in str(caught.value)
    whole(client, server, hits=len(WHOLE) + len(range(0, ends[-1], 7)))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_a_server_that_sends_little_at_a_time(connect: Connect, server: RawServer, size: int) -> None:
    pieces: list[Step] = []
    for at in range(0, len(WHOLE), size):
        pieces += [WHOLE[at : at + size], Pause(0.0)]
    server.play(pieces)
    client = connect(retries=QUICK)
    deltas, stream = client.stream(deadline=LONG)
    assert stream.completion.token_ids.tolist() == TOKENS
    assert [int(token) for delta in deltas for token in delta.token_ids] == TOKENS
    whole(client, server, hits=1)


# How the stream dawdles, and the tokens that come of it.
SLOW: dict[str, tuple[Answer, int]] = {
    "no answer": ([Stall()], 0),
    "no event": ([HEAD, Stall()], 0),
    "silence": ([*CUT, Stall()], 2),
    "comments": ([*CUT, Endlessly(b"8\r\n: ping\n\n\r\n", 0.02)], 2),
    "a trickling event": ([*CUT, Endlessly(b"1\r\n \r\n", 0.02)], 2),
    "an endless chunk extension": ([*CUT, b"1;x=", Endlessly(b"y", 0.02)], 2),
}


@pytest.mark.parametrize("fault", SLOW)
def test_the_deadline_is_of_the_whole_stream(connect: Connect, server: RawServer, fault: str) -> None:
    answer, count = SLOW[fault]
    server.play(answer)
    client = connect(retries=QUICK, max_concurrency=1)
    with pytest.raises(TransportError, match="the deadline passed while"):
        client.stream(deadline=SHORT)
    server.wait_until(lambda: server.open_connections == 0)
    kept = client.generate(on_interrupt="return", deadline=1.0)
    assert kept.token_ids.tolist() == TOKENS[:count]
    assert kept.aborted
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=2)


@pytest.mark.parametrize("fault", ["an event", "comments", "blank lines", "a chunk extension"])
def test_a_stream_without_an_end(connect: Connect, server: RawServer, fault: str) -> None:
    piece = {
        "an event": b"fa0\r\n" + b" " * 4000 + b"\r\n",
        "comments": b"fa0\r\n" + b": pings\n" * 500 + b"\r\n",
        "blank lines": b"fa0\r\n" + b"\n" * 4000 + b"\r\n",
        "a chunk extension": b"1;x=" + b"y" * 4000,
    }[fault]
    server.play([*CUT, Endlessly(piece)])
    client = connect(retries=QUICK, max_response_bytes=100_000)
    with pytest.raises(TransportError) as caught:
        client.generate(stream=True, deadline=LONG)
    assert caught.value.phase == "body"
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


@dataclass(frozen=True, slots=True)
class Counted(Endlessly):
    """How many pieces have been taken."""

    taken: list[int] = field(default_factory=lambda: [0])

    def __iter__(self) -> Iterator[Step]:
        for step in super(Counted, self).__iter__():
            self.taken[0] += isinstance(step, bytes)
            yield step


def test_a_stream_that_is_not_read_holds_the_server_back(connect: Connect, server: RawServer) -> None:
    flood = Counted(b"10000\r\n" + b": ping\n\n" * 8192 + b"\r\n")
    server.play([*CUT, flood], GOOD)
    client = connect(max_concurrency=1)
    stream = client.client.stream(PROMPT, deadline=LONG)
    if isinstance(stream, TitoStream):
        with stream:
            next(stream)
            for _ in _until_it_stands_still(flood):
                time.sleep(0.3)
    else:
        client.run(_idle(stream, flood))
    # Buffers of the client and of the kernel, on both sides: megabytes.
    assert flood.taken[0] < 1024
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


async def _idle(stream: AsyncTitoStream, flood: Counted) -> None:
    async with stream:
        await anext(stream)
        for _ in _until_it_stands_still(flood):
            await asyncio.sleep(0.3)


def _until_it_stands_still(flood: Counted) -> Iterator[None]:
    before, ends = -1, time.monotonic() + LONG
    while flood.taken[0] != before:
        assert time.monotonic() < ends
        before = flood.taken[0]
        yield


# ------------------------------------------------------------------------------------------------ many at once


def own_tokens(request: Received) -> Answer:
    """Tokens that only this request gets, an event at a time."""
    first = request.json["token_ids"][0]
    steps: list[Step] = [HEAD]
    for event in streamed([first, first + 1, first + 2, first + 3]):
        steps += [b"%x\r\n%b\r\n" % (len(event), event), Pause(0.01)]
    return [*steps, b"0\r\n\r\n"]


def test_two_hundred_streams_at_once(kind: Kind, server: RawServer) -> None:
    server.play(own_tokens)
    starts = range(1000, 201_000, 1000)
    options: dict[str, Any] = {"model": "m", "preflight": False, "retries": None}
    together = threading.Barrier(len(starts))

    def blocking(client: TitoClient, start: int) -> list[int]:
        with client.stream([start], deadline=LONG) as stream:
            together.wait(LONG)
            found = [int(token) for delta in stream for token in delta.token_ids]
        assert stream.completion.token_ids.tolist() == found
        return found

    async def asynchronous() -> list[list[int]]:
        async with AsyncTitoClient(server.url, **options) as client:

            async def one(start: int) -> list[int]:
                async with client.stream([start], deadline=LONG) as stream:
                    found = [int(token) async for delta in stream for token in delta.token_ids]
                assert stream.completion.token_ids.tolist() == found
                return found

            return await asyncio.gather(*map(one, starts))

    if kind == "blocking":
        with TitoClient(server.url, **options) as client, ThreadPoolExecutor(len(starts)) as pool:
            found = list(pool.map(lambda start: blocking(client, start), starts))
    else:
        found = asyncio.run(asynchronous())
    assert found == [[start, start + 1, start + 2, start + 3] for start in starts]
    assert server.hits == len(starts)


# ------------------------------------------------------------------------------------------------ cancellation


@Libraries
@pytest.mark.parametrize("thread_from_bytes", [1, 1 << 20])
def test_a_stream_cancelled_at_every_await(library: HttpLibrary, server: RawServer, thread_from_bytes: int) -> None:
    """What came is attached to the cancellation, the place is free, and nothing runs on."""
    in_pieces: list[Step] = [HEAD, Pause(0.001)]
    for event in EVENTS:
        in_pieces += [b"%x\r\n%b\r\n" % (len(event), event), Pause(0.001)]
    in_pieces.append(b"0\r\n\r\n")
    server.play(lambda request: in_pieces if request.json.get("stream") else GOOD)
    most = 0

    async def main() -> int:
        nonlocal most
        async with AsyncTitoClient(
            server.url, model="m", http=library, preflight=False, max_concurrency=1, thread_from_bytes=thread_from_bytes
        ) as client:
            for step in itertools.count():
                before = server.hits
                call = client.generate(PROMPT, on_interrupt="return", deadline=LONG)
                task = asyncio.create_task(_awaited(step, call))
                try:
                    completion = await task
                except asyncio.CancelledError as error:
                    completion = getattr(error, "completion", None)
                assert server.hits - before <= 1
                if completion is not None:
                    tokens = completion.token_ids.tolist()
                    assert tokens == TOKENS[: len(tokens)]
                    most = max(most, len(tokens))
                await asyncio.to_thread(server.wait_until, lambda: server.busy == 0)
                assert (await client.generate(PROMPT, deadline=LONG)).token_ids.tolist() == TOKENS
                for _ in range(5):
                    await asyncio.sleep(0)
                assert asyncio.all_tasks() == {asyncio.current_task()}
                if not task.cancelled():
                    return step
                assert step < 500
        raise AssertionError("unreachable")

    assert asyncio.run(main()) >= 4
    assert most == len(TOKENS)
    gc.collect()
    server.wait_until(lambda: server.open_connections == 0)


async def _awaited(step: int, call: Any) -> Any:
    return await cancelled_at(step, call)


@Libraries
def test_a_deadline_of_the_callers_own(library: HttpLibrary, server: RawServer) -> None:
    server.play([*CUT, Stall()])

    async def main() -> Completion:
        async with AsyncTitoClient(server.url, model="m", http=library, preflight=False) as client:
            try:
                async with asyncio.timeout(SHORT):
                    await client.generate(PROMPT, on_interrupt="return", deadline=LONG)
            except TimeoutError as error:
                kept = error.__cause__.completion  # type: ignore[union-attr]
                assert isinstance(kept, Completion)
                return kept
        raise AssertionError("not cancelled")

    assert asyncio.run(main()).token_ids.tolist() == TOKENS[:2]


@pytest.mark.parametrize("keeps", [True, False])
def test_an_interrupt_of_the_thread(server: RawServer, *, keeps: bool) -> None:
    server.play([*CUT, Stall()], GOOD)
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    assert main is not None

    def interrupt() -> None:
        server.wait_until(lambda: server.hits == 1)
        time.sleep(SHORT)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    try:
        with TitoClient(server.url, model="m", preflight=False, max_concurrency=1) as client:
            thread.start()
            with pytest.raises(KeyboardInterrupt) as caught:
                client.generate(PROMPT, stream=True, on_interrupt="return" if keeps else "raise", deadline=LONG)
            thread.join()
            server.wait_until(lambda: server.open_connections == 0)
            assert client.generate(PROMPT, deadline=LONG).token_ids.tolist() == TOKENS
    finally:
        signal.signal(signal.SIGINT, before)
    assert hasattr(caught.value, "completion") is keeps
    if keeps:
        assert vars(caught.value)["completion"].token_ids.tolist() == TOKENS[:2]


# ------------------------------------------------------------------------------------------------ errors that are kept

LARGE_EVENT = EVENTS[0] + b'data: {"x":"' + b"y" * SIZE
FAULTS: dict[str, Answer] = {
    "cut": [*chunked(200, [LARGE_EVENT], end=False), Close()],
    "reset": [*chunked(200, [LARGE_EVENT], end=False), Pause(0.05), Reset()],
    "silent": [*chunked(200, [LARGE_EVENT], end=False), Stall()],
    "no end": chunked(200, [LARGE_EVENT]),
    "no JSON": chunked(200, [LARGE_EVENT, b"\n\n"]),
    "an error": chunked(200, [LARGE_EVENT.replace(b"x", b"error") + b'"}\n\n']),
    "another document": chunked(200, [LARGE_EVENT + b'"}\n\n', EVENTS[-1]]),
    "too large": chunked(200, [LARGE_EVENT, LARGE_EVENT]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_that_is_kept_keeps_nothing_of_the_stream(connect: Connect, server: RawServer, fault: str) -> None:
    server.play(FAULTS[fault])
    client = connect(max_response_bytes=SIZE * 3 // 2)
    with everything_back(), pytest.raises(TitoError):
        client.generate(stream=True, deadline=1.5 if fault == "silent" else LONG)
    whole(client, server, hits=1)


@pytest.mark.parametrize("on_interrupt", ["raise", "return"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_that_is_dropped_is_gone(connect: Connect, server: RawServer, fault: str, on_interrupt: Any) -> None:
    server.play(FAULTS[fault])
    client = connect(max_response_bytes=SIZE * 3 // 2)
    gone: list[weakref.ref[TitoError]] = []
    options: dict[str, Any] = {
        "stream": True,
        "deadline": 1.5 if fault == "silent" else LONG,
        "on_interrupt": on_interrupt,
    }

    async def asked(asynchronous: AsyncTitoClient) -> None:
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
            with contextlib.suppress(TitoError):
                try:
                    client.generate(**options)
                except TitoError as error:
                    gone.append(weakref.ref(error))
                    raise
        ends = time.monotonic() + LONG
        while any(error() for error in gone) and time.monotonic() < ends:
            settle()
        assert not any(error() for error in gone)
    finally:
        gc.enable()
