"""A stream over every client, read in part: what is left of it, and what its client does meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import dynamo_tito as tito
from support.driver import PROMPT
from support.raw_server import RawServer, reply

from .test_streams import STALLED, STREAM, TOKENS, UNARY, Connect


def test_a_stream_that_is_left(connect: Connect, server: RawServer) -> None:
    server.play(STALLED, STALLED, STREAM)
    client = connect(max_concurrency=1)
    left: list[tuple[Any, tito.StreamDelta]] = []

    async def leave(stream: tito.AsyncTitoStream) -> None:
        async with stream:
            async for delta in stream:
                left.append((stream, delta))
                break

    for on_interrupt in ("raise", "return"):
        stream = client.client.stream(PROMPT, on_interrupt=on_interrupt)
        with pytest.raises(RuntimeError, match="has not ended yet"):
            _ = stream.completion
        if isinstance(stream, tito.TitoStream):
            with stream:
                for delta in stream:
                    left.append((stream, delta))
                    break
        else:
            client.run(leave(stream))
        server.wait_until(lambda: server.open_connections == 0)
    with pytest.raises(RuntimeError, match="has no completion"):
        _ = left[0][0].completion
    kept, delta = left[1][0].completion, left[1][1]
    assert kept.token_ids.tolist() == delta.token_ids.tolist() == TOKENS[: len(delta.token_ids)]
    assert kept.aborted
    assert server.left_early == server.hits == 2
    assert client.generate(stream=True).token_ids.tolist() == TOKENS


@pytest.mark.parametrize("kind", ["native", "httpx"])
def test_a_wait_for_tokens_that_is_cancelled(connect: Connect, server: RawServer) -> None:
    server.play(STALLED, STREAM)
    client = connect(max_concurrency=1)

    async def waited() -> tito.Completion:
        assert isinstance(client.client, tito.AsyncTitoClient)
        async with client.client.stream(PROMPT, on_interrupt="return") as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    _ = [delta async for delta in stream]
            assert [delta async for delta in stream] == []
        return stream.completion

    assert client.run(waited()).token_ids.tolist() == TOKENS[:2]
    assert client.generate(stream=True).token_ids.tolist() == TOKENS


def test_a_plain_loop_that_is_left(connect: Connect, server: RawServer) -> None:
    """Without a context manager the connection is closed when the stream is dropped."""
    server.play(STALLED, STREAM)
    client = connect(max_concurrency=1)

    async def leave() -> None:
        async for _ in client.client.stream(PROMPT):  # type: ignore[union-attr]
            break
        await asyncio.to_thread(server.wait_until, lambda: server.left_early == 1)

    if isinstance(client.client, tito.TitoClient):
        for _ in client.client.stream(PROMPT):
            break
        server.wait_until(lambda: server.left_early == 1)
    else:
        client.run(leave())
    assert client.generate(stream=True).token_ids.tolist() == TOKENS


def test_an_open_stream_has_its_place(connect: Connect, server: RawServer) -> None:
    server.play(STALLED)
    client = connect(max_concurrency=1)
    stream = client.client.stream(PROMPT, deadline=60.0)

    async def both(stream: tito.AsyncTitoStream) -> None:
        assert isinstance(client.client, tito.AsyncTitoClient)
        async with stream:
            await client.client.generate(PROMPT, deadline=0.3)

    def blocking(stream: tito.TitoStream) -> None:
        with stream:
            client.generate(deadline=0.3)

    with pytest.raises(tito.TransportError) as caught:
        blocking(stream) if isinstance(stream, tito.TitoStream) else client.run(both(stream))
    assert caught.value.phase == "connect"
    assert server.hits == 1


def test_a_stream_that_failed_has_ended(connect: Connect, server: RawServer) -> None:
    server.play(reply(400, {"error": "no"}))
    client = connect()
    stream = client.client.stream(PROMPT)
    with pytest.raises(tito.BadRequestError):
        client.rest(stream)
    assert client.rest(stream) == []
    with pytest.raises(RuntimeError, match="has no completion"):
        _ = stream.completion
    assert server.hits == 1


def test_the_time_between_two_questions_counts(connect: Connect, server: RawServer) -> None:
    server.play(STALLED)
    client = connect()
    stream = client.client.stream(PROMPT, deadline=0.3)
    with pytest.raises(tito.TransportError, match="the deadline passed while reading the answer"):
        client.rest(stream, after=lambda: time.sleep(0.4))


def test_a_call_between_two_deltas(connect: Connect, server: RawServer) -> None:
    """The deadline of the one is not that of the other."""
    server.play(STREAM, UNARY)
    client = connect()
    stream = client.client.stream(PROMPT, deadline=60.0)

    async def both(stream: tito.AsyncTitoStream) -> None:
        assert isinstance(client.client, tito.AsyncTitoClient)
        async for _ in stream:
            await client.client.generate(PROMPT, deadline=30.0)

    if isinstance(stream, tito.TitoStream):
        client.rest(stream, after=lambda: client.generate(deadline=30.0))
    else:
        client.run(both(stream))
    assert stream.completion.token_ids.tolist() == TOKENS


def test_a_closed_client(connect: Connect, server: RawServer) -> None:
    client = connect()
    if isinstance(client.client, tito.AsyncTitoClient):
        client.run(client.client.aclose())
    else:
        client.client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.stream()
    assert server.hits == 0
