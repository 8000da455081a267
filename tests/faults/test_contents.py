"""Bodies that differ from their headers: another type, another encoding, another size."""

from __future__ import annotations

import gzip
import zlib

import pytest

from dynamo_tito import Limits
from dynamo_tito._errors import DecodeError, MalformedBodyError, TransportError
from support.raw_server import Close, RawServer, chunked, head, reply

from .cases import BODY, LONG, QUICK, Connect, answered, whole

PAGE = b"<!doctype html><html><head><title>Gateway</title></head><body>hello</body></html>"


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "application/octet-stream", ""])
def test_a_page_with_status_200(connect: Connect, server: RawServer, content_type: str) -> None:
    server.play(reply(200, PAGE, content_type=content_type))
    client = connect(retries=QUICK)
    with pytest.raises(MalformedBodyError) as caught:
        client.generate(deadline=LONG)
    assert (caught.value.kind, caught.value.offset) == ("syntax", 0)
    whole(client, server, hits=1)


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=latin-1", "", "nonsense", "\x80"])
def test_json_of_another_type_is_json(connect: Connect, server: RawServer, content_type: str) -> None:
    """The header is not read: servers set it wrong, and every byte of the body is checked."""
    server.play(reply(200, BODY, content_type=content_type))
    client = connect(retries=QUICK)
    assert answered(client) == [7, 8, 9]
    whole(client, server, hits=1)


def test_json_of_no_type(connect: Connect, server: RawServer) -> None:
    server.play([head(200, {"content-length": str(len(BODY))}) + BODY])
    assert answered(connect()) == [7, 8, 9]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_another_charset(connect: Connect, server: RawServer, encoding: str) -> None:
    server.play(reply(200, BODY.decode().encode(encoding), content_type=f"application/json; charset={encoding}"))
    client = connect(retries=QUICK)
    with pytest.raises(MalformedBodyError):
        client.generate(deadline=LONG)
    whole(client, server, hits=1)


@pytest.mark.parametrize("compression", [True, False])
@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", "gzip;q=1", "aes128gcm", "x"])
def test_an_encoding_that_was_not_requested(
    connect: Connect, server: RawServer, encoding: str, *, compression: bool
) -> None:
    server.play(reply(200, BODY, headers={"content-encoding": encoding}))
    client = connect(retries=QUICK, compression=compression)
    with pytest.raises(TransportError, match="which was not asked for") as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase == "body"
    whole(client, server, hits=1)


ZIPPED = gzip.compress(BODY)
BROKEN_GZIP: dict[str, bytes] = {
    "cut within the header": ZIPPED[:5],
    "cut within the data": ZIPPED[: len(ZIPPED) // 2],
    "cut within the checksum": ZIPPED[:-6],
    "cut by a byte": ZIPPED[:-1],
    "nothing": b"",
    "plain": BODY,
    "a wrong checksum": ZIPPED[:-8] + bytes(8),
    "a wrong length": ZIPPED[:-4] + bytes(4),
    "a flipped bit": ZIPPED[:20] + bytes([ZIPPED[20] ^ 1]) + ZIPPED[21:],
    "something behind it": ZIPPED + b"x",
    "a cut member behind it": ZIPPED + ZIPPED[:-1],
    "raw deflate": zlib.compress(BODY, wbits=-15),
}


@pytest.mark.parametrize("fault", BROKEN_GZIP)
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_gzip_that_is_broken(connect: Connect, server: RawServer, fault: str, framing: str) -> None:
    body, headers = BROKEN_GZIP[fault], {"content-encoding": "gzip"}
    if framing == "length":
        server.play(reply(200, body, headers=headers))
    elif framing == "chunks":
        server.play(chunked(200, [body[i : i + 50] for i in range(0, len(body), 50)], headers=headers))
    else:
        server.play([head(200, {**headers, "connection": "close"}) + body, Close()])
    client = connect(retries=QUICK, compression=True)
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase == "body"
    assert fault != "plain" or "not what its content-encoding says" in str(caught.value)
    whole(client, server, hits=1)


BOMBS: dict[str, bytes] = {
    "zeros": gzip.compress(bytes(20_000_000)),
    "members": gzip.compress(b" " * 100_000) * 200,
    "empty members": gzip.compress(b"") * 50_000,
    "zlib": zlib.compress(bytes(20_000_000)),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("compression", [True, False])
def test_bombs(connect: Connect, server: RawServer, bomb: str, *, compression: bool) -> None:
    encoding = "deflate" if bomb == "zlib" else "gzip"
    server.play(reply(200, BOMBS[bomb], headers={"content-encoding": encoding}))
    client = connect(retries=QUICK, compression=compression, limits=Limits(max_decompressed_bytes=1_000_000))
    with pytest.raises((TransportError, DecodeError)) as caught:
        client.generate(deadline=LONG)
    if bomb != "empty members":
        assert "more than 1000000 (raised with limits=Limits(max_decompressed_bytes=...))" in str(caught.value)
    whole(client, server, hits=1)


def test_the_two_sizes_have_ceilings_of_their_own(connect: Connect, server: RawServer) -> None:
    body = BODY + b" " * 100_000
    server.play(reply(200, gzip.compress(body), headers={"content-encoding": "gzip"}))
    small = Limits(max_response_bytes=2000)
    assert answered(connect(compression=True, limits=small)) == [7, 8, 9]
    with pytest.raises(TransportError, match="max_decompressed_bytes"):
        connect(compression=True, limits=Limits(max_decompressed_bytes=2000)).generate(deadline=LONG)
    server.play(reply(200, body))
    assert answered(connect(limits=Limits(max_decompressed_bytes=2000))) == [7, 8, 9]
    with pytest.raises(TransportError, match="max_response_bytes"):
        connect(limits=small).generate(deadline=LONG)


def test_the_decoder_keeps_its_ceilings(connect: Connect, server: RawServer) -> None:
    server.play(reply(200, BODY))
    with pytest.raises(MalformedBodyError, match=r"at least 3 elements, more than 2 .*max_tokens") as caught:
        connect(limits=Limits(max_tokens=2)).generate(deadline=LONG)
    assert caught.value.kind == "too_many"
    assert answered(connect(limits=Limits(max_tokens=3))) == [7, 8, 9]
    scored = b'{"prompt_logprobs":[null,null,null,null,null],"choices":[{"token_ids":[1]}]}'
    server.play(reply(200, scored))
    with pytest.raises(MalformedBodyError, match="max_tokens"):
        connect(limits=Limits(max_tokens=4)).score([1, 2, 3, 4, 5], deadline=LONG)


def test_an_error_in_a_page_made_of_titles(connect: Connect, server: RawServer) -> None:
    """Looking for a title in this took the square of its length: seconds, on the event loop."""
    server.play(reply(502, b"<html>" + b"<title" * 10_900, content_type="text/html"))
    client = connect(retries=QUICK)
    for _ in range(20):
        with pytest.raises(Exception, match="an HTML page, probably of a proxy: untitled"):
            client.generate(deadline=LONG)
    whole(client, server, hits=20)


@pytest.mark.parametrize("depth", [3, 500, 900, 20_000])
@pytest.mark.parametrize("key", ["error", "message", "detail"])
def test_an_error_in_many_envelopes(connect: Connect, server: RawServer, depth: int, key: str) -> None:
    server.play(reply(400, b'{"%b":' % key.encode() * depth + b'"told so"' + b"}" * depth))
    client = connect(retries=QUICK)
    with pytest.raises(Exception, match="HTTP 400: "):
        client.generate(deadline=LONG)
    whole(client, server, hits=1)
