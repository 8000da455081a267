"""Streams over a client of the caller, a mock and an engine of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import aiohttp
import httpx
import pytest

import dynamo_tito as tito
from support.driver import PROMPT
from support.raw_server import RawServer
from support.small import generated

from .test_streams import BROKEN, EVENTS, STREAM, TOKENS, WHOLE


def test_clients_of_ones_own(server: RawServer) -> None:
    server.play(STREAM, BROKEN)

    async def with_(http_client: Any) -> list[list[int]]:
        async with (
            http_client as own,
            tito.AsyncTitoClient(server.url, model="m", http_client=own, preflight=False) as c,
        ):
            kept = [await c.generate(PROMPT, on_interrupt="return") for _ in range(2)]
        return [completion.token_ids.tolist() for completion in kept]

    assert asyncio.run(with_(httpx.AsyncClient())) == [TOKENS, TOKENS[:2]]

    async def with_session() -> list[list[int]]:
        return await with_(aiohttp.ClientSession())

    server.play(STREAM, BROKEN)
    assert asyncio.run(with_session()) == [TOKENS, TOKENS[:2]]
    server.play(STREAM, BROKEN)
    with httpx.Client() as own, tito.TitoClient(server.url, model="m", http_client=own, preflight=False) as client:
        kept = [client.generate(PROMPT, on_interrupt="return").token_ids.tolist() for _ in range(2)]
    assert kept == [TOKENS, TOKENS[:2]]


def test_a_mock() -> None:
    mock = tito.MockTransport(lambda _: tito.HttpResponse(200, {}, WHOLE))

    async def asked() -> list[int]:
        async with tito.AsyncTitoClient("http://test", model="m", preflight=False, http_client=mock) as client:
            return [int(token) async for delta in client.stream(PROMPT) for token in delta.token_ids]

    assert asyncio.run(asked()) == TOKENS
    with tito.TitoClient("http://test", model="m", preflight=False, http_client=mock) as client:
        assert [int(token) for delta in client.stream(PROMPT) for token in delta.token_ids] == TOKENS
    assert len(mock.requests) == 2


class WholeOnly:
    """An engine of before there were streams."""

    def __init__(self, answer: tito.HttpResponse) -> None:
        self.answer = answer
        self.sent = 0

    def send(self, exchange: tito.Exchange) -> tito.HttpResponse:
        self.sent += 1
        return exchange.receive(self.answer.status, {}, [bytes(self.answer.content)])

    async def asend(self, exchange: tito.Exchange) -> tito.HttpResponse:
        return self.send(exchange)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Streaming(WholeOnly):
    """And one with streams that do as they are told."""

    begins = True

    def stream(self, exchange: tito.Exchange) -> Generator[bytes, None, None]:
        begun = exchange.begin(200, {"Content-Type": "text/event-stream"})
        if self.begins:
            yield begun
        for event in EVENTS:
            yield event
            yield b""

    async def astream(self, exchange: tito.Exchange) -> AsyncGenerator[bytes, None]:
        with contextlib.closing(self.stream(exchange)) as chunks:
            for chunk in chunks:
                yield chunk


def over(engine: WholeOnly, *, blocking: bool, **options: Any) -> list[int]:
    if blocking:
        with tito.TitoClient("http://test", model="m", http_client=engine, preflight=False) as client:
            return [*map(int, client.generate(PROMPT, **options).token_ids)]

    async def asked() -> list[int]:
        async with tito.AsyncTitoClient("http://test", model="m", http_client=engine, preflight=False) as client:
            return [*map(int, (await client.generate(PROMPT, **options)).token_ids)]

    return asyncio.run(asked())


@pytest.mark.parametrize("blocking", [True, False])
def test_engines_with_and_without_streams(*, blocking: bool) -> None:
    good = tito.HttpResponse(200, {}, json.dumps(generated(TOKENS)).encode())
    plain, streaming = WholeOnly(good), Streaming(good)
    assert not isinstance(plain, tito.StreamingHttpEngine | tito.AsyncStreamingHttpEngine)
    assert isinstance(streaming, tito.StreamingHttpEngine)
    assert isinstance(streaming, tito.AsyncStreamingHttpEngine)
    assert over(plain, blocking=blocking) == TOKENS
    assert over(streaming, blocking=blocking, stream=True) == TOKENS
    assert (plain.sent, streaming.sent) == (1, 0)
    for options in ({"stream": True}, {"on_interrupt": "return"}):
        with pytest.raises(NotImplementedError, match="hands over no streams"):
            over(plain, blocking=blocking, **options)
    assert plain.sent == 1
    with pytest.raises(NotImplementedError, match="hands over no streams"):
        over(WholeOnly(tito.HttpResponse(501, {}, b"set stream=true")), blocking=blocking)
    streaming.begins = False
    with pytest.raises(TypeError, match=r"yields first what Exchange\.begin returns"):
        over(streaming, blocking=blocking, stream=True)
