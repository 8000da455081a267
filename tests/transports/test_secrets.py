"""Keys are sent to the server and shown nowhere."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator

import pytest

from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._errors import TitoError
from dynamo_tito._http.base import HttpRequest
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.secrets import masked
from support.driver import Driver, Kind
from support.raw_server import Answer, Close, RawServer, Received, Reset, Script, Stall, reply

KEY = "sk-7f3a9c-very-secret"
PASSWORD = "hunter2-very-secret"
Connect = Callable[..., Driver]


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and everything it drags along."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None and each not in seen:
            seen.append(each)
            todo += [each.__cause__, each.__context__]
    yield from seen


def echo(request: Received) -> Answer:
    return reply(401, {"error": {"message": f"no such key: {request.headers['authorization']}"}})


ANSWERS: dict[str, Script] = {
    "echoed": echo,
    "echoed beyond the cut": lambda request: reply(
        400, json.dumps({"message": "x" * 4090 + request.headers["authorization"]}).encode()
    ),
    "reset": [Reset()],
    "closed": [Close()],
    "stalled": [Stall()],
    "malformed": reply(200, b"{"),
    "no http": [b"nonsense\r\n\r\n", Close()],
    "redirect": reply(302, b"", headers={"location": "http://127.0.0.1/"}),
    "unavailable": reply(503, {"message": "Generation is paused"}),
}


@pytest.mark.parametrize("how", ANSWERS)
def test_errors_and_logs(connect: Connect, server: RawServer, caplog: pytest.LogCaptureFixture, how: str) -> None:
    caplog.set_level(logging.DEBUG)
    server.play(ANSWERS[how])
    url = server.url.replace("//", f"//user:{PASSWORD}@")
    client = connect(url, api_key=KEY, headers={"x-api-key": KEY + "-too"})
    with pytest.raises(TitoError) as caught:
        client.generate(deadline=1.0)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    for error in chain(caught.value):
        shown = [str(error), repr(error), str(error.__dict__), "".join(traceback.format_exception(error))]
        assert not any(secret in text for text in shown for secret in (KEY, PASSWORD))
        assert type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "aiohttp")
    assert KEY.encode() not in pickle.dumps(caught.value)
    assert KEY not in caplog.text
    assert PASSWORD not in caplog.text
    assert KEY not in repr(client.client)
    assert PASSWORD not in repr(client.client)


def test_a_closed_port(kind: Kind) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:{PASSWORD}@127.0.0.1:{unused.getsockname()[1]}"
        with Driver(kind, url, api_key=KEY, retries=None) as client, pytest.raises(TitoError) as caught:
            client.generate()
    for error in chain(caught.value):
        assert type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "aiohttp")
        assert PASSWORD not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("made", [AsyncTitoClient, TitoClient])
def test_representations(made: type[AsyncTitoClient | TitoClient]) -> None:
    client = made(f"https://user:{PASSWORD}@host:8443/v1", model="m", api_key=KEY, headers={"x-api-key": KEY})
    assert repr(client) == f"{made.__name__}('https://host:8443', model='m', transport='vllm_generate')"
    assert client.base_url == "https://host:8443"
    endpoint = make_endpoint("http://h", api_key=KEY)
    assert KEY not in repr(endpoint)
    assert KEY not in repr(HttpRequest("POST", "http://h", {"authorization": KEY}, KEY.encode()))


@pytest.mark.parametrize("value", ["a\r\nx-injected: 1", "a\nb", "a\0b", "snow\u2603", " padded"])
def test_values_that_no_header_can_hold(value: str) -> None:
    for arguments in ({"api_key": value.strip() + "\n"}, {"headers": {"x-a": value}}):
        with pytest.raises(ValueError, match="cannot be sent") as caught:
            make_endpoint("http://h", **arguments)
        assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\n", "ü"])
def test_names_that_no_header_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="is no header name"):
        make_endpoint("http://h", headers={name: "x"})


@pytest.mark.parametrize("argument", ["session_id", "request_id"])
def test_injected_headers(connect: Connect, server: RawServer, argument: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        connect().generate(**{argument: "a\r\nx-injected: 1"})
    with pytest.raises(ValueError, match="cannot be sent"):
        connect().generate(extra_headers={"x-a": "b\r\nx-injected: 1"})
    assert server.hits == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot reach http://me:secret@host:1/x", "cannot reach http://***@host:1/x"),
        ("https://token@host", "https://***@host"),
        ("http://host/a@b", "http://host/a@b"),
        ("nothing", "nothing"),
    ],
)
def test_masking(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h", "http://h"),
        ("HTTP://H:80/", "http://h:80"),
        ("https://h/v1", "https://h"),
        ("https://h/a/b/v1/", "https://h/a/b"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        (" http://h/v1 ", "http://h"),
        ("http://bücher.example:1/v1", "http://xn--bcher-kva.example:1"),
        ("http://h/v10", "http://h/v10"),
    ],
)
def test_addresses(url: str, root: str) -> None:
    assert make_endpoint(url).root == root


@pytest.mark.parametrize(
    "url", ["", "h:8000", "ftp://h", "http://", "http://h?x=1", "http://h#x", "http://h:port", "http://h:99999", "/v1"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        make_endpoint(url)


def test_an_address_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        make_endpoint(f"ftp://user:{PASSWORD}@host")
    assert PASSWORD not in str(caught.value)
