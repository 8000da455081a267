"""Engines over a library's client: what each promises of a connection that fails, and what it leaves to the library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from dynamo_tito import AsyncTitoClient, Limits, RetryPolicy
from dynamo_tito._errors import DecodeError, ServerError, TitoError, TransportError
from support.driver import ADAPTERS, OPENAI_KEY, PROMPT, Driver, Kind
from support.raw_server import Close, Pause, RawServer, Script, Stall, chunked, head, reply
from support.small import generated, streamed

from .black_hole import refusing
from .cases import BODY, GOOD, LONG, QUICK, SHORT, TOKENS, answered, whole
from .test_phases import CUT, ENDLESS, ENDS, FLOODS, MALFORMED, SLOW


class Promises(NamedTuple):
    """What an engine keeps. The core's keeps all of it, in `test_phases.py` and its neighbours.

    Attributes:
        phases: it tells how far a failed exchange got. Otherwise only a failed connection is known to be one.
        blanks: blank lines without an end are ended by their size, like a head. Otherwise the deadline ends them.
        framing: a body whose chunks are malformed is refused. Otherwise the deadline may have to end it.
        trickles: the deadline ends a head that trickles in.
        idle: a connection that broke while it was idle is not used. Otherwise a call may fail, and is not sent again.
    """

    phases: bool
    blanks: bool
    framing: bool
    trickles: bool
    idle: bool


PROMISED: dict[Kind, Promises] = {
    "httpx": Promises(phases=True, blanks=True, framing=True, trickles=True, idle=True),
    "httpx, blocking": Promises(phases=True, blanks=True, framing=True, trickles=False, idle=True),
    "aiohttp": Promises(phases=False, blanks=False, framing=False, trickles=True, idle=False),
    "openai": Promises(phases=False, blanks=True, framing=True, trickles=True, idle=True),
    "openai, blocking": Promises(phases=False, blanks=True, framing=True, trickles=False, idle=True),
}


@pytest.fixture(params=ADAPTERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def promised(kind: Kind) -> Promises:
    return PROMISED[kind]


@contextlib.contextmanager
def told(fault: str) -> Iterator[None]:
    """An error names the fault that it was found with."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"fault: {fault}")
        raise


def test_every_adapter_is_in_the_table() -> None:
    assert {*PROMISED} == {*ADAPTERS}


def test_answers(kind: Kind, server: RawServer) -> None:
    large = json.dumps(generated(list(range(100_000, 200_000)))).encode()
    with Driver(kind, server.url) as client:
        server.play(GOOD, chunked(200, [BODY[:20], BODY[20:]]), reply(200, large))
        assert answered(client) == TOKENS
        assert answered(client) == TOKENS
        assert len(answered(client)) == 100_000
        server.play(chunked(200, streamed(TOKENS)))
        deltas, stream = client.stream(deadline=LONG)
        assert stream.completion.token_ids.tolist() == TOKENS
        assert [int(token) for delta in deltas for token in delta.token_ids] == TOKENS
        assert server.connections == 1
        server.play(reply(503, b'{"message":"told so"}'), reply(200, b""), GOOD)
        with pytest.raises(ServerError, match="told so"):
            client.generate(deadline=LONG)
        with pytest.raises(DecodeError):
            client.generate(deadline=LONG)
        whole(client, server, hits=6)


def test_a_connection_that_ends(kind: Kind, promised: Promises, server: RawServer) -> None:
    with Driver(kind, server.url, retries=QUICK) as client:
        for fault, (script, phase, hits) in ENDS.items():
            before = server.hits
            server.play(script)
            with told(fault):
                with pytest.raises(TransportError) as caught:
                    client.generate(deadline=LONG)
                assert caught.value.phase in ({phase, "headers", "send"} if promised.phases else {phase, "headers"})
                whole(client, server, hits=before + hits)


def test_what_is_no_answer(kind: Kind, server: RawServer) -> None:
    malformed: dict[str, Script] = {name: [said, Stall()] for name, said in MALFORMED.items()}
    with Driver(kind, server.url, retries=QUICK) as client:
        for fault, script in {**CUT, **malformed}.items():
            before = server.hits
            server.play(script)
            with told(fault):
                with pytest.raises(TitoError) as caught:
                    client.generate(deadline=1.0)
                assert isinstance(caught.value, TransportError | DecodeError)
                assert "\n" not in str(caught.value)
                if isinstance(script, list) and isinstance(script[-1], Close):
                    # A library may take a connection whose end is still on its way.
                    server.wait_until(lambda: server.open_connections == 0)
                whole(client, server, hits=before + 1)


def test_a_head_without_an_end(kind: Kind, promised: Promises, server: RawServer) -> None:
    with Driver(kind, server.url, retries=QUICK) as client:
        for fault, script in ENDLESS.items():
            if kind.endswith("blocking") and "interim" in fault:
                continue  # neither the library nor the deadline ends them
            before = server.hits
            server.play(script)
            bounded = promised.blanks if fault == "blank lines" else "interim" not in fault
            with told(fault):
                with pytest.raises(TransportError) as caught:
                    client.generate(deadline=LONG if bounded else SHORT)
                assert caught.value.phase == "headers"
                assert ("the deadline passed" in str(caught.value)) is not bounded
                server.wait_until(lambda: server.open_connections == 0)
                whole(client, server, hits=before + 1)


def test_a_head_above_its_ceiling(kind: Kind, server: RawServer) -> None:
    """It is found once the head is there."""
    server.play(reply(200, BODY, headers={f"x-{number}": "y" * 1000 for number in range(20)}))
    with Driver(kind, server.url, limits=Limits(max_header_bytes=10_000)) as client:
        with pytest.raises(TransportError, match=r"more than 10000 .*Limits\(max_header_bytes=|.*10000") as caught:
            client.generate(deadline=LONG)
        assert caught.value.phase == "headers"


def test_the_deadline_is_of_the_whole_call(kind: Kind, promised: Promises, server: RawServer) -> None:
    with Driver(kind, server.url, retries=QUICK) as client:
        for fault, (script, _) in SLOW.items():
            if not promised.trickles and fault not in (
                "no answer",
                "half a status line",
                "no body",
                "a trickling body",
            ):
                continue
            before = server.hits
            server.play(script)
            with told(fault):
                with pytest.raises(TransportError, match="the deadline passed while"):
                    client.generate(deadline=SHORT)
                server.wait_until(lambda: server.open_connections == 0)
                whole(client, server, hits=before + 1)


def test_a_body_without_an_end(kind: Kind, promised: Promises, server: RawServer) -> None:
    with Driver(kind, server.url, retries=QUICK, max_response_bytes=100_000) as client:
        for fault, script in FLOODS.items():
            # Chunk extensions are skipped, however long, without a byte of memory: that is for the deadline to end.
            bounded = "extension" not in fault and (promised.framing or "trailer" not in fault)
            before = server.hits
            server.play(script)
            with told(fault):
                with pytest.raises(TransportError) as caught:
                    client.generate(deadline=LONG if bounded else 1.0)
                assert caught.value.phase in {"headers", "body"}
                server.wait_until(lambda: server.open_connections == 0)
                whole(client, server, hits=before + 1)


def test_a_closed_port(kind: Kind) -> None:
    with refusing() as url, Driver(kind, url, retries=QUICK) as client:
        with pytest.raises(TransportError) as caught:
            client.generate(deadline=LONG)
        assert caught.value.phase == "connect"


def test_a_connection_that_broke_while_idle(kind: Kind, promised: Promises, server: RawServer) -> None:
    """No call is sent twice in either case."""
    server.play(GOOD)
    with Driver(kind, server.url, retries=QUICK) as client:
        for call in range(1, 4):
            with contextlib.suppress(*([] if promised.idle else [TransportError])):
                assert answered(client) == TOKENS
            assert server.hits <= call
            server.drop_connections()
            server.wait_until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if not kind.endswith("blocking")], indirect=True)
def test_a_cancelled_call_closes_its_connection(kind: Kind, server: RawServer) -> None:
    server.play([head(200, {"content-length": "10"}), Stall()])
    with Driver(kind, server.url, max_concurrency=1) as driver:
        client = driver.client
        assert isinstance(client, AsyncTitoClient)

        async def leave() -> None:
            call = asyncio.create_task(client.generate(PROMPT))
            await asyncio.to_thread(server.wait_until, lambda: server.hits == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(server.wait_until, lambda: server.open_connections == 0)

        driver.run(leave())
        whole(driver, server, hits=1)


# ------------------------------------------------------------------------------------------------ OpenAI's clients

OPENAI: tuple[Kind, ...] = ("openai", "openai, blocking")
Carried = pytest.mark.parametrize("kind", OPENAI, indirect=True)


@Carried
def test_headers_of_the_carrier_are_sent_and_none_twice(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    with Driver(kind, server.url) as client:
        answered(client)
    sent = server.requests[0].headers
    assert sent["authorization"] == f"Bearer {OPENAI_KEY}"
    assert "openai" in sent["user-agent"].lower()
    assert sent["x-stainless-lang"] == "python"
    assert (sent["accept"], sent["content-type"]) == ("application/json", "application/json")
    assert sent["accept-encoding"] == "identity"


@Carried
def test_a_key_of_our_own_wins(kind: Kind, server: RawServer) -> None:
    server.play(GOOD)
    with Driver(kind, server.url, api_key="ours") as client:
        answered(client)
    assert server.requests[0].headers["authorization"] == "Bearer ours"


@Carried
@pytest.mark.parametrize("status", [408, 409, 500, 502, 504])
def test_the_carrier_sends_nothing_again(kind: Kind, server: RawServer, status: int) -> None:
    """With its own two retries these would be sampled three times."""
    server.play(reply(status, b'{"message":"told so"}', headers={"x-should-retry": "true", "retry-after": "0"}), GOOD)
    with Driver(kind, server.url, retries=RetryPolicy()) as client, pytest.raises(ServerError, match="told so"):
        client.generate(deadline=LONG)
    assert server.hits == 1


@Carried
def test_no_message_shows_the_key(kind: Kind, server: RawServer) -> None:
    server.play(reply(401, json.dumps({"message": "no such key: ours"}).encode()))
    with Driver(kind, server.url, api_key="ours") as client, pytest.raises(ServerError) as caught:
        client.generate(deadline=LONG)
    assert "ours" not in str(caught.value)


@Carried
def test_a_server_that_answers_slowly(kind: Kind, server: RawServer) -> None:
    """The carrier's own timeouts do not apply: the call has a deadline."""
    server.play([Pause(0.3), *GOOD])
    with Driver(kind, server.url) as driver:
        carrier: Any = driver._carrier
        carrier.timeout = 0.05
        assert answered(driver) == TOKENS
