"""Bodies without a length: the memory of the next one is sized by the last ones of the route."""

from __future__ import annotations

import asyncio
import gc

import pytest

from dynamo_tito import AsyncTitoClient, Body, Limits, ServerError, TitoClient, memory_stats, trim_memory
from dynamo_tito._http.base import Exchange, HttpRequest, HttpResponse, Receiver
from dynamo_tito._http.mock import MockTransport
from support.driver import PROMPT
from support.small import CHAT, GENERATE

CHUNK = 100_000
LARGE = 3_000_000
URL = "http://test"


class Noting(MockTransport):
    """Notes what was expected of each request's answer."""

    def __init__(self, *sizes: int) -> None:
        bodies = iter([GENERATE.ljust(size) for size in sizes])
        super().__init__(lambda _: HttpResponse(200, {}, next(bodies)))
        self.expected: list[int] = []

    def send(self, exchange: Exchange) -> HttpResponse:
        self.expected.append(exchange.expected)
        return super().send(exchange)


def test_the_largest_of_the_last_ones_is_expected() -> None:
    transport = Noting(80_000, 1000, 90_000, *[1000] * 65)
    with TitoClient(URL, model="m", preflight=False, http_client=transport) as client:
        for _ in range(68):
            client.generate(PROMPT)
    assert transport.expected == [0, 80_000, 80_000, *[90_000] * 64, 1000]


def test_the_order_of_calls_that_run_at_once_means_nothing() -> None:
    sizes = [1000, 80_000, 2000]
    gates = [asyncio.Event() for _ in sizes]
    all_sent = asyncio.Event()
    expected = []

    class Gated:
        async def asend(self, exchange: Exchange) -> HttpResponse:
            expected.append(exchange.expected)
            place = len(expected) - 1
            if place == len(sizes) - 1:
                all_sent.set()
            if place == len(sizes):
                return HttpResponse(200, {}, GENERATE)
            await gates[place].wait()
            return HttpResponse(200, {}, GENERATE.ljust(sizes[place]))

        async def aclose(self) -> None:
            pass

    async def at_once() -> None:
        async with AsyncTitoClient(URL, model="m", preflight=False, http_client=Gated()) as client:
            calls = [asyncio.create_task(client.generate(PROMPT)) for _ in sizes]
            await all_sent.wait()
            for place in (1, 2, 0):
                gates[place].set()
                await calls[place]
            await client.generate(PROMPT)

    asyncio.run(at_once())
    assert expected == [0, 0, 0, 80_000]


def test_each_route_has_its_own() -> None:
    bodies = {"/inference/v1/generate": GENERATE.ljust(80_000), "/v1/chat/completions": CHAT.ljust(9000)}
    noting = Noting()
    noting._handler = lambda request: HttpResponse(200, {}, bodies[request.url.removeprefix(URL)])
    with TitoClient(URL, model="m", preflight=False, http_client=noting) as client:
        for transport in ("vllm_generate", "dynamo_chat") * 2:
            client.generate([1, 2, 3], transport=transport)
    assert noting.expected == [0, 0, 80_000, 9000]


def test_an_error_changes_nothing() -> None:
    transport = Noting(80_000)
    with TitoClient(URL, model="m", preflight=False, http_client=transport, retries=None) as client:
        client.generate(PROMPT)
        transport._handler = lambda _: HttpResponse(500, {}, b"no".ljust(200_000))
        for _ in range(2):
            with pytest.raises(ServerError, match="HTTP 500"):
                client.generate(PROMPT)
    assert transport.expected == [0, 80_000, 80_000]


@pytest.mark.parametrize("expected", [0, LARGE])
def test_a_body_in_chunks_takes_the_pages_of_one_like_it(expected: int) -> None:
    """Not those of a result twice as large, which would have to be made anew."""
    gc.collect()
    trim_memory()
    blocks = [Body(LARGE), Body(LARGE * 3)]
    del blocks
    held = memory_stats()["held_bytes"]
    exchange = Exchange(HttpRequest("POST", URL, {}), True, expected=expected)
    receiver = Receiver(200, {"transfer-encoding": "chunked"}, exchange=exchange, limits=Limits())
    for _ in range(LARGE // CHUNK + 1):
        receiver.feed(b" " * CHUNK)
    assert len(receiver.finish().content) > LARGE
    taken = held - memory_stats()["held_bytes"]
    assert (taken < LARGE * 3 // 2) is (expected > 0)
