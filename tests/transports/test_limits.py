"""Sizes and encodings of answers: ceilings apply before memory is allocated, and a cut answer is refused."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest

from dynamo_tito import Limits, TitoClient
from dynamo_tito._errors import DecodeError, EngineError, TransportError
from support.driver import Driver
from support.raw_server import Close, RawServer, chunked, head, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]

ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "two members": ("gzip", lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
    "x-gzip": ("X-GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "identity": ("identity", lambda body: body),
}


@pytest.mark.parametrize("how", ENCODINGS)
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_compressed_answers(connect: Connect, server: RawServer, recorded: Recorded, how: str, framing: str) -> None:
    encoding, compress = ENCODINGS[how]
    body = compress(recorded("generate_basic"))
    headers = {"content-encoding": encoding}
    if framing == "length":
        server.play(reply(200, body, headers=headers))
    else:
        server.play(chunked(200, [body[i : i + 7] for i in range(0, len(body), 7)], headers=headers))
    completion = connect(compression=True).generate()
    assert completion.token_ids.tolist() == [1000, 1001, 1002, 1003]
    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate"


def test_a_compressed_error(connect: Connect, server: RawServer) -> None:
    server.play(reply(500, gzip.compress(b'{"message":"told so"}'), headers={"content-encoding": "gzip"}))
    with pytest.raises(EngineError, match="told so"):
        connect().generate()


def test_output_that_waits_inside_the_decompressor(connect: Connect, server: RawServer) -> None:
    """Megabytes of one byte: the input is used up long before the output is out."""
    body = json.dumps({"message": " " * 5_000_000, "choices": []}).encode()
    server.play(reply(200, gzip.compress(body), headers={"content-encoding": "gzip"}))
    with pytest.raises(DecodeError, match="choices"):
        connect().generate()


@pytest.mark.parametrize("framing", ["announced", "chunks", "unannounced"])
def test_a_body_that_is_too_large(connect: Connect, server: RawServer, recorded: Recorded, framing: str) -> None:
    body = recorded("generate_basic")
    if framing == "announced":
        server.play(reply(200, b"", length=10**9))
    elif framing == "chunks":
        server.play(chunked(200, [b" " * 1000] * 200))
    else:
        server.play([head(200, {"connection": "close"}) + b" " * 200_000, Close()])
    client = connect(max_response_bytes=len(body))
    with pytest.raises(TransportError, match=r"more than \d+ .*Limits\(max_response_bytes=") as caught:
        client.generate()
    assert caught.value.phase == "body"
    server.play(reply(200, body))
    assert len(client.generate().token_ids) == 4


def test_an_absurd_length(connect: Connect, server: RawServer) -> None:
    server.play([head(200, {"content-length": "9" * 30}), Close()])
    with pytest.raises(TransportError):
        connect().generate()


def test_of_an_error_only_the_beginning_is_read(connect: Connect, server: RawServer) -> None:
    server.play([head(500, {"content-length": str(10**12)}) + b"x" * 100_000])
    with pytest.raises(EngineError):
        connect().generate(deadline=10.0)
    server.wait_until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("size", [1_000, 3_000_000])
def test_bodies_on_both_sides_of_the_thread(connect: Connect, server: RawServer, recorded: Recorded, size: int) -> None:
    body = recorded("generate_basic")
    server.play(reply(200, body + b" " * size))
    assert len(connect(thread_from_bytes=100_000).generate().token_ids) == 4


@pytest.mark.parametrize("name", ["max_response_bytes", "thread_from_bytes", "max_concurrency"])
def test_ceilings_below_one(connect: Connect, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        connect(**{name: 0})


def test_one_of_two_ways_to_say_it(connect: Connect) -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        connect(limits=Limits(), max_response_bytes=5)


def test_a_deep_answer_of_a_route_that_samples_nothing(server: RawServer) -> None:
    server.play(reply(200, b"[" * 100_000 + b"]" * 100_000))
    with Driver("blocking", server.url) as driver:
        assert isinstance(driver.client, TitoClient)
        with pytest.raises(DecodeError):
            driver.client.detokenize([1])
