"""Bodies whose length nobody announces: what the last ones were like says how much room the next one needs."""

from __future__ import annotations

import gc
import json

import pytest

from dynamo_tito import memory_stats, trim_memory
from dynamo_tito._client import TitoClient
from dynamo_tito._transports.base import Exchange, HttpResponse
from dynamo_tito._transports.mock import MockTransport
from support.driver import PROMPT
from support.raw_server import RawServer, chunked
from support.small import CHAT, GENERATE, generated

LARGE = 3 << 20
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
    transport = Noting(80_000, 1000, 1000, 90_000, 1000)
    with TitoClient(URL, model="m", preflight=False, http_client=transport) as client:
        for _ in range(5):
            client.generate(PROMPT)
    assert transport.expected == [0, 80_000, 70_000, 61_250, 90_000]


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
    good = transport._handler
    with TitoClient(URL, model="m", preflight=False, http_client=transport, retries=None) as client:
        client.generate(PROMPT)
        transport._handler = lambda _: HttpResponse(500, {}, b"no".ljust(200_000))
        for _ in range(2):
            with pytest.raises(Exception, match="HTTP 500"):
                client.generate(PROMPT)
        transport._handler = good
    assert transport.expected == [0, 80_000, 80_000]


def test_a_body_in_chunks_takes_the_pages_of_the_last_one(server: RawServer) -> None:
    body = json.dumps(generated([7, 8, 9])).encode().ljust(LARGE)
    server.play(chunked(200, [body[at : at + 100_000] for at in range(0, LARGE, 100_000)]))
    gc.collect()
    trim_memory()
    with TitoClient(server.url, model="m", preflight=False) as client:
        for _ in range(8):  # until there is a block of every size on the way
            client.generate(PROMPT, deadline=60.0)
        before = memory_stats()
        client.generate(PROMPT, deadline=60.0)
        after = memory_stats()
    assert (after["allocated"], after["held_bytes"]) == (before["allocated"], before["held_bytes"])
    # Its own block, and the small ones from which it grew.
    assert LARGE <= after["held_bytes"] <= LARGE * 5 // 4 + (4 << 20)
