"""HTTP engines that use public names only."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import dynamo_tito as tito

ROOT = Path(__file__).parents[2]
BODY = b'{"request_id":"r","choices":[{"index":0,"token_ids":[7],"finish_reason":"stop"}]}'
NO_LOGPROBS = {"logprobs": 0}


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, "examples/http_engine.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("8 tokens, length: [")


def test_the_example_uses_public_names_only() -> None:
    assert "dynamo_tito._" not in (ROOT / "examples" / "http_engine.py").read_text()


class Canned:
    """Answers each request with the same body, in pieces."""

    def __init__(self, headers: dict[str, str], body: bytes, limits: tito.Limits | None = None) -> None:
        self.headers, self.body, self.limits = headers, body, limits
        self.content: object = None
        self.closed = 0

    def pieces(self) -> list[bytes]:
        return [self.body[:20], self.body[20:]]

    def send(self, exchange: tito.Exchange) -> tito.HttpResponse:
        assert exchange.phase == "connect"
        response = exchange.receive(200, self.headers, self.pieces(), limits=self.limits)
        self.content = type(response.content)
        return response

    def close(self) -> None:
        self.closed += 1

    async def asend(self, exchange: tito.Exchange) -> tito.HttpResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for piece in self.pieces():
                yield piece

        response = await exchange.areceive(200, self.headers, chunks(), limits=self.limits)
        self.content = type(response.content)
        return response

    async def aclose(self) -> None:
        self.closed += 1


async def asked(engine: Canned) -> list[int]:
    async with tito.AsyncTitoClient("http://test", model="m", preflight=False, http_client=engine) as client:
        return [*map(int, (await client.generate([1], sampling_params=NO_LOGPROBS)).token_ids)]


def blocking(engine: Canned) -> list[int]:
    with tito.TitoClient("http://test", model="m", preflight=False, http_client=engine) as client:
        return [*map(int, client.generate([1], sampling_params=NO_LOGPROBS).token_ids)]


def generated(engine: Canned, kind: str) -> list[int]:
    return blocking(engine) if kind == "blocking" else asyncio.run(asked(engine))


KINDS = pytest.mark.parametrize("kind", ["blocking", "asynchronous"])


@KINDS
def test_a_good_answer_goes_into_a_body(kind: str) -> None:
    engine = Canned({"Content-Length": str(len(BODY))}, BODY)
    assert isinstance(engine, tito.HttpEngine)
    assert isinstance(engine, tito.AsyncHttpEngine)
    assert generated(engine, kind) == [7]
    assert engine.content is tito.Body
    assert engine.closed == 1


@KINDS
def test_a_compressed_answer_is_decompressed(kind: str) -> None:
    assert generated(Canned({"Content-Encoding": "gzip"}, gzip.compress(BODY)), kind) == [7]


@KINDS
@pytest.mark.parametrize(
    ("headers", "limits", "match"),
    [
        ({"content-length": str(len(BODY) + 1)}, None, "the body ended after"),
        ({}, tito.Limits(max_response_bytes=10), "max_response_bytes"),
        ({"content-encoding": "br"}, None, "content-encoding 'br'"),
    ],
)
def test_a_bad_answer_is_an_error_with_its_phase(
    kind: str, headers: dict[str, str], limits: tito.Limits | None, match: str
) -> None:
    with pytest.raises(tito.TransportError, match=match) as caught:
        generated(Canned(headers, BODY, limits), kind)
    assert caught.value.phase == "body"
