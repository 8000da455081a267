"""The core's engine: what it alone promises, beside what every engine does."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dynamo_tito import AsyncTitoClient, TitoClient
from dynamo_tito._errors import ServerError, TransportError
from dynamo_tito._http import native
from support.authority import Authority
from support.driver import PROMPT, Driver, Kind
from support.processes import run
from support.raw_server import Answer, Close, Early, Pause, RawServer, Reset, Stall, chunked, head, reply
from support.small import generated

LONG = 60.0
"""Seconds that nothing takes, however slow the machine."""

TOKENS = list(range(100_000, 200_000))
DOCUMENT = generated(TOKENS)
BODY = json.dumps(DOCUMENT).encode()
SMALL = json.dumps(generated([7, 8, 9])).encode()
OK = b"HTTP/1.1 200 OK\r\n"
HEAD = head(200, {"content-type": "application/json", "content-length": str(len(BODY))})
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

Connect = Callable[..., Driver]


@pytest.fixture(params=[*LOOPS, "blocking"])
def connect(request: pytest.FixtureRequest, server: RawServer) -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(url: str | None = None, **options: Any) -> Driver:
            kind: Kind = "blocking"
            if request.param in LOOPS:
                kind, options["loop_factory"] = "native", LOOPS[request.param]
            return stack.enter_context(Driver(kind, url or server.url, **options))

        yield make


def answered(client: Driver, expected: list[int] = TOKENS) -> None:
    tokens: list[int] = client.generate(deadline=LONG).token_ids.tolist()
    assert tokens == expected


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


BODIES: dict[str, Answer] = {
    "at once": [HEAD + BODY],
    "behind the head": [HEAD, Pause(0.01), BODY],
    "in pieces": [HEAD, *pieces(BODY, 10_000)],
    "in one chunk": chunked(200, [BODY]),
    "in large chunks": chunked(200, pieces(BODY, 200_000)),
    "in chunks": chunked(200, pieces(BODY, 5_000)),
    "in small chunks": chunked(200, pieces(BODY, 7)),
    "until the end": [head(200, {"connection": "close"}) + BODY, Close()],
    "behind interim answers": [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3 + HEAD + BODY],
    "with a trailer": [
        head(200, {"transfer-encoding": "chunked", "trailer": "x"}),
        b"%X;a=b\r\n%b\r\n000\r\nx: y\r\n\r\n" % (len(BODY), BODY),
    ],
}


@pytest.mark.parametrize("how", BODIES)
def test_large_bodies(connect: Connect, server: RawServer, how: str) -> None:
    server.play(BODIES[how])
    client = connect()
    for _ in range(3):
        answered(client)
    assert (server.hits, server.connections) == (3, 3 if how == "until the end" else 1)


@pytest.mark.parametrize("at", [*range(1, len(HEAD) + 3, 7), len(HEAD) - 1, len(HEAD), len(HEAD) + len(BODY) - 1])
def test_the_answer_comes_in_two_parts(connect: Connect, server: RawServer, at: int) -> None:
    whole = HEAD + BODY
    server.play([whole[:at], Pause(0.01), whole[at:]])
    client = connect()
    answered(client)
    answered(client)
    assert server.connections == 1


@pytest.mark.parametrize("size", range(1, 40))
def test_chunks_come_in_parts_of_any_size(server: RawServer, size: int) -> None:
    answer = b"".join(step for step in chunked(200, pieces(SMALL, 11)) if isinstance(step, bytes))
    server.play(list(itertools.chain.from_iterable((piece, Pause(0.0)) for piece in pieces(answer, size))))
    with Driver("native", server.url) as client:
        answered(client, [7, 8, 9])


@pytest.mark.parametrize("loop", LOOPS)
def test_over_tls(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        RawServer(tls=authority.server()) as server,
        Driver("native", server.url, tls=authority.trusted(), loop_factory=LOOPS[loop]) as client,
    ):
        for answer in BODIES.values():
            server.play(answer)
            answered(client)
        assert (server.hits, server.connections) == (len(BODIES), 2)


N, X = b"%d" % len(SMALL), b"%x" % len(SMALL)
CHUNK = X + b"\r\n" + SMALL + b"\r\n0\r\n\r\n"
CLEAR: list[bytes] = [
    b"content-length: " + N + b"\r\n\r\n" + SMALL,
    b"content-length: " + N + b"\r\ncontent-length: " + N + b"\r\n\r\n" + SMALL,
    b"transfer-encoding: chunked\r\n\r\n" + CHUNK,
]
AMBIGUOUS: dict[str, bytes] = {
    "a length and chunks": b"content-length: " + N + b"\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK,
    "two lengths": b"content-length: " + N + b"\r\ncontent-length: 1\r\n\r\n" + SMALL,
    "two lengths in one": b"content-length: " + N + b", 1\r\n\r\n" + SMALL,
    "a signed length": b"content-length: +" + N + b"\r\n\r\n" + SMALL,
    "two encodings": b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNK,
    "chunks twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK,
    "a folded line": b"content-length: " + N + b"\r\n \r\n\r\n" + SMALL,
    "a space before the colon": b"content-length : " + N + b"\r\n\r\n" + SMALL,
    "a bare LF": b"content-length: " + N + b"\n\r\n" + SMALL,
    "a bare LF at the end": b"content-length: " + N + b"\r\n\n" + SMALL,
    "a bare CR": b"x: y\rcontent-length: " + N + b"\r\n\r\n" + SMALL,
    "a chunk whose size ends in LF": b"transfer-encoding: chunked\r\n\r\n" + CHUNK.replace(b"\r\n", b"\n", 1),
    "a size in another spelling": b"transfer-encoding: chunked\r\n\r\n0x" + CHUNK,
}


@pytest.mark.parametrize("how", AMBIGUOUS)
def test_what_others_may_read_otherwise(server: RawServer, how: str) -> None:
    with Driver("native", server.url, retries=None) as client:
        for clear in CLEAR:
            server.play([OK + clear])
            answered(client, [7, 8, 9])
        server.play([OK + AMBIGUOUS[how], Close()])
        with pytest.raises(TransportError):
            client.generate(deadline=LONG)
        server.play(reply(200, BODY))
        answered(client)
        assert (server.hits, server.connections) == (len(CLEAR) + 2, 2)


MANY = list(range(1_000_000, 3_000_000))
"""The prompt of a request that no buffer of a connection holds."""


@pytest.mark.parametrize("end", [Close(), Reset(), Stall()], ids=["closed", "reset", "open"])
def test_an_answer_before_all_of_the_request(connect: Connect, server: RawServer, end: Any) -> None:
    server.play(Early([*reply(413, b"too large"), Pause(0.05), end], after_headers=True))
    client = connect(retries=None)
    with pytest.raises((ServerError, TransportError)) as caught:
        client.generate(MANY, deadline=LONG)
    if not isinstance(end, Reset):  # which discards what came before
        assert isinstance(caught.value, ServerError)
        assert caught.value.status == 413
    server.wait_until(lambda: server.open_connections == 0)
    server.play(reply(200, BODY))
    answered(client)


def test_interim_answers_within_the_request(connect: Connect) -> None:
    """They do not end it, whatever they come with."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received = connection.recv(1000)
                for _ in range(20):
                    connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
                    time.sleep(0.005)
                head, _, rest = received.partition(b"\r\n\r\n")
                left = int(re.findall(rb"content-length: (\d+)", head)[0]) - len(rest)
                while left > 0:
                    left -= len(connection.recv(min(left, 1 << 20)))
                connection.sendall(HEAD + BODY)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=None)
        assert client.generate(MANY, deadline=LONG).token_ids.tolist() == TOKENS
        thread.join()


def test_an_answer_to_no_request(connect: Connect, server: RawServer) -> None:
    """A second answer is nobody's, whether it comes with the first or later, and closes its connection."""
    client = connect()
    for gap in ([], [Pause(0.1)]):
        server.play([HEAD + BODY, *gap, HEAD + SMALL], reply(200, BODY))
        answered(client)
        server.wait_until(lambda: server.open_connections == 0)
        answered(client)
        server.drop_connections()
        server.wait_until(lambda: server.open_connections == 0)


def test_idle_connections_are_closed_in_time(connect: Connect, server: RawServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "KEEPALIVE", 0.2)
    server.play(reply(200, BODY))
    client = connect()
    answered(client)
    server.wait_until(lambda: server.open_connections == 0)
    answered(client)
    assert (server.hits, server.connections) == (2, 2)


def test_a_host_by_its_name(connect: Connect, server: RawServer) -> None:
    """It may have other addresses, where nobody listens."""
    server.play(reply(200, BODY))
    client = connect(server.url.replace("127.0.0.1", "localhost"))
    answered(client)
    answered(client)
    assert server.connections == 1
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_closing_ends_the_calls_on_their_way(server: RawServer) -> None:
    server.play([Stall()])

    async def main() -> None:
        client = AsyncTitoClient(server.url, model="m", http="native", preflight=False)
        calls = [asyncio.create_task(client.generate(PROMPT)) for _ in range(5)]
        await asyncio.to_thread(server.wait_until, lambda: server.hits == 5)
        await client.aclose()
        for call in calls:
            with pytest.raises(TransportError, match="the client was closed"):
                await call
        await asyncio.to_thread(server.wait_until, lambda: server.open_connections == 0)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ contexts


def test_a_context_that_asks_for_no_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.trusted()
    context.check_hostname = False
    with RawServer([reply(200, SMALL)], tls=authority.server("engine.example")) as server:
        with Driver("native", server.url, tls=context) as client:
            answered(client, [7, 8, 9])
        with (
            Driver("native", server.url, tls=authority.trusted(), retries=None) as client,
            pytest.raises(TransportError, match="not valid for name"),
        ):
            client.generate(deadline=LONG)


AUTHORITY = b"".join(ssl.create_default_context().get_ca_certs(binary_form=True)[:1])
"""A certificate that any machine has."""


def _with_revocations() -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _from_a_directory() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath="/etc/ssl")
    return context


@pytest.mark.parametrize("context", [_with_revocations, _from_a_directory])
def test_contexts_that_cannot_be_read(context: Callable[[], ssl.SSLContext]) -> None:
    with pytest.raises(ValueError, match=r"http='native' cannot read .* of an ssl\.SSLContext"):
        TitoClient("https://h", model="m", http="native", tls=context())


# ------------------------------------------------------------------------------------------------ processes

EXITS = {
    "asyncio": """
        async def main():
            client = tito.AsyncTitoClient(url, model="m", http="native", preflight=False)
            calls = [asyncio.create_task(client.generate([1])) for _ in range(20)]
            await asyncio.sleep(0.5)
            print("over", flush=True)
            os._exit(0) if hard else sys.exit(0)
        asyncio.run(main())
    """,
    "threads": """
        client = tito.TitoClient(url, model="m", http="native", preflight=False)
        for _ in range(20):
            threading.Thread(target=client.generate, args=([1],), daemon=True).start()
        time.sleep(0.5)
        print("over", flush=True)
        os._exit(0) if hard else sys.exit(0)
    """,
}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("how", EXITS)
def test_a_process_that_ends_with_calls_on_their_way(server: RawServer, how: str, *, hard: bool) -> None:
    server.play([HEAD + BODY[:1000], Stall()])
    lines = EXITS[how].strip("\n").splitlines()
    code = "\n".join(line[8:] for line in lines)
    names = f"url, hard = {server.url!r}, {hard}"
    done = run("-c", f"import asyncio, os, sys, threading, time\nimport dynamo_tito as tito\n{names}\n{code}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
    server.wait_until(lambda: server.open_connections == 0)


def test_a_wait_that_is_interrupted(server: RawServer) -> None:
    server.play([Stall()])
    code = f"""
import signal
import dynamo_tito as tito
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with tito.TitoClient({server.url!r}, model="m", http="native", preflight=False) as client:
    try:
        client.generate([1])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            server.wait_until(lambda: server.hits == 1)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=LONG)[0] == "interrupted\n"
        finally:
            process.kill()
    assert process.returncode == 0
    server.wait_until(lambda: server.open_connections == 0)
