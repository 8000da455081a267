"""A connection that ends, stalls or sends wrong bytes, in every phase of an exchange."""

from __future__ import annotations

import pytest

from dynamo_tito import Limits
from dynamo_tito._errors import DecodeError, ServerError, TitoError, TransportError
from support.driver import Driver, Kind
from support.raw_server import Close, Early, Endlessly, Pause, RawServer, Reset, Script, Stall, chunked, head, reply

from .black_hole import refusing
from .cases import BODY, GOOD, LONG, QUICK, SHORT, Connect, whole

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = head(200, {"transfer-encoding": "chunked"})
HALF = BODY[: len(BODY) // 2]
SIZE = len(BODY)

# Fault, how the server plays it, the phase that the error names, whether the request was read.
ENDS: dict[str, tuple[Script, str, int]] = {
    "reset, nothing read": (Early([Reset()]), "headers", 0),
    "closed, nothing read": (Early([Close()]), "headers", 0),
    "reset, headers read": (Early([Reset()], after_headers=True), "headers", 0),
    "closed, headers read": (Early([Close()], after_headers=True), "headers", 0),
    "reset, request read": ([Reset()], "headers", 1),
    "closed, request read": ([Close()], "headers", 1),
    "reset within the status line": ([b"HTTP/1.1 2", Pause(0.02), Reset()], "headers", 1),
    "closed within the status line": ([b"HTTP/1.1 2", Close()], "headers", 1),
    "reset within the headers": ([OK + b"content-le", Pause(0.02), Reset()], "headers", 1),
    "closed within the headers": ([OK + b"content-le", Close()], "headers", 1),
    "closed after an interim answer": ([b"HTTP/1.1 103 Early Hints\r\n\r\n", Close()], "headers", 1),
    "reset before the body": ([head(200, {"content-length": "9"}), Pause(0.05), Reset()], "body", 1),
    "closed before the body": ([head(200, {"content-length": "9"}), Close()], "body", 1),
    "reset within the body": ([head(200, {"content-length": str(SIZE)}) + HALF, Pause(0.05), Reset()], "body", 1),
    "closed within the body": ([head(200, {"content-length": str(SIZE)}) + HALF, Close()], "body", 1),
    "one byte short": ([head(200, {"content-length": str(SIZE + 1)}) + BODY, Close()], "body", 1),
    "reset within the chunks": ([CHUNKED + b"9\r\n123", Pause(0.05), Reset()], "body", 1),
    "closed within a chunk": ([CHUNKED + b"9\r\n123", Close()], "body", 1),
    "closed between chunks": ([CHUNKED + b"3\r\n123\r\n", Close()], "body", 1),
    "closed within a chunk's size": ([CHUNKED + b"3", Close()], "body", 1),
    "closed before the last chunk's end": ([CHUNKED + b"%x\r\n%b\r\n0\r\n" % (SIZE, BODY), Close()], "body", 1),
}


@pytest.mark.parametrize("fault", ENDS)
def test_a_connection_that_ends(connect: Connect, server: RawServer, fault: str) -> None:
    script, phase, hits = ENDS[fault]
    server.play(script)
    client = connect(retries=QUICK)
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert "deadline" not in str(caught.value)
    # A reset may overtake the bytes before it, and the write of the request.
    assert caught.value.phase in {phase, "headers", "send"}
    assert "\n" not in str(caught.value)
    whole(client, server, hits=hits)


def test_a_reset_behind_the_body_is_no_fault(connect: Connect, server: RawServer) -> None:
    server.play([*GOOD, Pause(0.02), Reset()], GOOD)
    client = connect(retries=QUICK)
    assert len(client.generate(deadline=LONG).token_ids) == 3
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


def test_a_close_behind_the_body_is_no_fault(connect: Connect, server: RawServer) -> None:
    server.play([*GOOD, Close()], GOOD)
    client = connect(retries=QUICK)
    assert len(client.generate(deadline=LONG).token_ids) == 3
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


# Complete bodies that differ from the announced ones, or are no JSON: only the decoder finds this.
CUT: dict[str, Script] = {
    "cut, no length": [head(200, {"connection": "close"}) + HALF, Close()],
    "one byte cut, no length": [head(200, {"connection": "close"}) + BODY[:-1], Close()],
    "one byte more than announced": [head(200, {"content-length": str(SIZE - 1)}) + BODY, Close()],
    "nothing at all": reply(200, b""),
    "half of it in whole chunks": chunked(200, [HALF]),
    "something behind it": reply(200, BODY + b"x"),
    "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
}


@pytest.mark.parametrize("fault", CUT)
def test_a_body_that_is_not_all(connect: Connect, server: RawServer, fault: str) -> None:
    server.play(CUT[fault])
    client = connect(retries=QUICK)
    with pytest.raises((DecodeError, TransportError)) as caught:
        client.generate(deadline=LONG)
    assert "deadline" not in str(caught.value)
    whole(client, server, hits=1)


MALFORMED: dict[str, bytes] = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a page without a head": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nulls": b"\0" * 100,
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "no name": OK + b": value\r\n\r\n",
    "a space in a name": OK + b"a b: c\r\n\r\n",
    "no colon": OK + b"header\r\n\r\n",
    "a null in a value": OK + b"a: b\0c\r\n\r\n",
    "a negative length": OK + b"content-length: -5\r\n\r\n" + BODY,
    "a length of letters": OK + b"content-length: many\r\n\r\n" + BODY,
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n" + BODY,
    "a length that fits nowhere": OK + b"content-length: " + b"9" * 40 + b"\r\n\r\n" + BODY,
    "an unknown transfer encoding": OK + b"transfer-encoding: gzip\r\n\r\n" + BODY,
    "a chunk of no size": CHUNKED + b"\r\n" + BODY,
    "a chunk of letters": CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-5\r\n12345\r\n0\r\n\r\n",
    "a chunk larger than any memory": CHUNKED + b"f" * 40 + b"\r\n" + BODY,
    "a chunk longer than its size": CHUNKED + b"3\r\n12345\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKED + b"3\r\n123456",
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_what_is_no_http(connect: Connect, server: RawServer, fault: str) -> None:
    server.play([MALFORMED[fault], Close()])
    client = connect(retries=QUICK)
    with pytest.raises(TitoError) as caught:
        client.generate(deadline=LONG)
    assert isinstance(caught.value, (TransportError, DecodeError))
    assert "deadline" not in str(caught.value)
    assert "\n" not in str(caught.value)
    whole(client, server, hits=1)


ENDLESS: dict[str, Script] = {
    "status line": [Endlessly(b"HTTP/1.1 200 OK " * 500)],
    "reason": [b"HTTP/1.1 200 ", Endlessly(b"OK " * 500)],
    "one header": [OK + b"x: ", Endlessly(b"y" * 2000)],
    "one name": [OK, Endlessly(b"y" * 2000)],
    "headers": [OK, Endlessly(b"x: y\r\n" * 100)],
    "large headers": [OK, Endlessly(b"x: " + b"y" * 5000 + b"\r\n")],
    "interim answers": [Endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)],
    "interim answers with headers": [Endlessly(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 50)],
    "blank lines": [Endlessly(b"\r\n" * 1000)],
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_without_an_end(connect: Connect, server: RawServer, what: str) -> None:
    """No deadline ends these: their size does."""
    server.play(ENDLESS[what])
    client = connect(retries=QUICK)
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase == "headers"
    assert "deadline" not in str(caught.value)
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


def test_heads_up_to_the_ceiling(connect: Connect, server: RawServer) -> None:
    fields = {f"x-{number}": "y" * 1000 for number in range(20)}
    server.play(reply(200, BODY, headers=fields))
    connect(limits=Limits(max_header_bytes=25_000)).generate(deadline=LONG)
    with pytest.raises(TransportError, match=r"more than 10000 .*Limits\(max_header_bytes=") as caught:
        connect(limits=Limits(max_header_bytes=10_000)).generate(deadline=LONG)
    assert caught.value.phase == "headers"


def test_a_large_body_behind_a_small_head(connect: Connect, server: RawServer) -> None:
    """What comes with the last of the headers is no header."""
    server.play([head(200, {"content-length": str(SIZE + 3_000_000)}) + BODY + b" " * 3_000_000])
    client = connect(limits=Limits(max_header_bytes=200))
    for _ in range(3):
        assert len(client.generate(deadline=LONG).token_ids) == 3


def test_heads_larger_than_usual(connect: Connect, server: RawServer) -> None:
    fields = {f"x-{number}": "y" * 3000 for number in range(40)}
    server.play(reply(200, BODY, headers=fields))
    client = connect(limits=Limits(max_header_bytes=200_000))
    assert len(client.generate(deadline=LONG).token_ids) == 3


# The body goes on for ever, or so slowly that only the deadline of the whole call can end it.
SLOW: dict[str, tuple[Script, str]] = {
    "no answer": ([Stall()], "headers"),
    "half a status line": ([b"HTTP/1.1 20", Stall()], "headers"),
    "trickling headers": ([OK + b"x: ", Endlessly(b"y", 0.02)], "headers"),
    "trickling interim answers": ([Endlessly(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)], "headers"),
    "no body": ([head(200, {"content-length": "9"}), Stall()], "body"),
    "a trickling body": ([head(200, {"content-length": "99999"}), Endlessly(b" ", 0.02)], "body"),
    "a trickling body without a length": ([head(200, {"connection": "close"}), Endlessly(b" ", 0.02)], "body"),
    "trickling chunks": ([CHUNKED, Endlessly(b"1\r\n \r\n", 0.02)], "body"),
    "an endless chunk extension": ([CHUNKED + b"1;x=", Endlessly(b"y", 0.02)], "body"),
    "a trickling trailer": ([CHUNKED + b"0\r\n", Endlessly(b"x: y\r\n", 0.02)], "body"),
    "a trickling error": ([head(500, {"content-length": "99999"}), Endlessly(b" ", 0.02)], "body"),
}


@pytest.mark.parametrize("fault", SLOW)
def test_the_deadline_is_of_the_whole_call(connect: Connect, server: RawServer, fault: str) -> None:
    script, phase = SLOW[fault]
    server.play(script)
    client = connect(retries=QUICK)
    with pytest.raises(TransportError, match="the deadline passed while") as caught:
        client.generate(deadline=SHORT)
    # On a machine that took that long to come so far it is an earlier one.
    assert caught.value.phase in {phase, "headers", "send", "connect"}
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=server.hits)


FLOODS: dict[str, Script] = {
    "a chunk extension": [CHUNKED + b"1;x=", Endlessly(b"y" * 4000)],
    "a trailer": [CHUNKED + b"0\r\n", Endlessly(b"x: y\r\n" * 500)],
    "chunks": [CHUNKED, Endlessly(b"fa0\r\n" + b" " * 4000 + b"\r\n")],
    "chunks of one byte": [CHUNKED, Endlessly(b"1\r\n \r\n" * 500)],
    "a body": [head(200, {"connection": "close"}), Endlessly(b" " * 4000)],
}


@pytest.mark.parametrize("fault", FLOODS)
def test_a_body_without_an_end(connect: Connect, server: RawServer, fault: str) -> None:
    server.play(FLOODS[fault])
    client = connect(retries=QUICK, max_response_bytes=100_000)
    with pytest.raises(TransportError) as caught:
        client.generate(deadline=LONG)
    assert caught.value.phase in {"headers", "body"}
    server.wait_until(lambda: server.open_connections == 0)
    whole(client, server, hits=1)


def test_a_closed_port(kind: Kind) -> None:
    with refusing() as url, Driver(kind, url, retries=QUICK) as client:
        with pytest.raises(TransportError) as caught:
            client.generate(deadline=LONG)
        assert caught.value.phase == "connect"


def test_an_address_that_is_none(kind: Kind) -> None:
    with Driver(kind, "http://engine.invalid:8000", retries=None, trust_env=False) as client:
        with pytest.raises(TransportError) as caught:
            client.generate(deadline=LONG)
        assert caught.value.phase == "connect"


@pytest.mark.parametrize("status", [204, 304, 401, 500])
def test_answers_without_a_body_again_and_again(connect: Connect, server: RawServer, status: int) -> None:
    server.play([head(status, {} if status in {204, 304} else {"content-length": "0"})])
    client = connect(retries=QUICK)
    for _ in range(3):
        with pytest.raises((ServerError, DecodeError)):
            client.generate(deadline=LONG)
    whole(client, server, hits=3)


@pytest.mark.parametrize("status", [101, 199, 206, 226, 299, 300, 304, 399, 600, 999])
def test_unusual_statuses(connect: Connect, server: RawServer, status: int) -> None:
    server.play([head(status, {"content-length": "2", "connection": "close"}) + b"{}", Close()])
    client = connect(retries=QUICK)
    with pytest.raises(TitoError) as caught:
        client.generate(deadline=LONG)
    assert isinstance(caught.value, (ServerError, TransportError, DecodeError))
    assert "deadline" not in str(caught.value)
    whole(client, server, hits=1)
