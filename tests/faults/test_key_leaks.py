"""A server sends the key back, wherever a server can: no error, log line or representation contains it."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from dynamo_tito import Limits
from dynamo_tito._errors import (
    AlignmentError,
    BadRequestError,
    EngineError,
    MalformedBodyError,
    MissingFieldError,
    NotFoundError,
    OverloadedError,
    RoutedExpertsError,
    ServerError,
    TitoError,
    TransportError,
    UnauthorizedError,
    UnsupportedParameterError,
)
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.secrets import hidden, masked, secrets_of
from support.driver import Driver
from support.raw_server import Answer, Close, RawServer, Received, Reset, Script, Stall, reply

from .black_hole import refusing
from .cases import LONG, QUICK, SHORT, Connect, whole

KEY = 'sk-8d7f"6a5b/4c3\\d'
TEAM = "team-key-19af27be"
CALL = "call-key-5a0c44d1"
PASSWORD = "pass/word@93b1"
SECRETS = (KEY, TEAM, CALL, PASSWORD)


def told(request: Received) -> str:
    """All that the server received."""
    return "\n".join(f"{name}: {value}" for name, value in request.headers.items())


def spellings() -> Iterator[str]:
    for secret in SECRETS:
        yield from (secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), repr(secret)[1:-1])
        yield secret[:8]


def body(request: Received, **members: Any) -> dict[str, Any]:
    """A good answer but for ``members``, with the keys in every text that there is."""
    said = told(request)
    choice = {"index": 0, "token_ids": [7], "text": said, "finish_reason": said, "stop_reason": said, said: said}
    choice["logprobs"] = {"content": [{"token": said, "token_id": 7, "logprob": -1, said: said}]}
    return {"request_id": said, "object": said, "choices": [{**choice, **members}], said: said, "usage": {said: said}}


# Error, how the server plays it.
PLAYS: dict[str, tuple[type[TitoError], Script]] = {
    "no http": (TransportError, lambda request: [told(request).encode(), Close()]),
    "a status line": (TransportError, lambda request: [f"HTTP/1.1 {told(request)}\r\n\r\n".encode(), Close()]),
    "a header": (
        TransportError,
        lambda request: [f"HTTP/1.1 200 OK\r\n{told(request)}".encode() + b"\0\r\n\r\n", Close()],
    ),
    "a header's name": (
        TransportError,
        lambda request: [
            b"HTTP/1.1 200 OK\r\n",
            *(f"x {value}\r\n".encode() for value in request.headers.values()),
            Close(),
        ],
    ),
    "a header, cut": (
        TransportError,
        lambda request: [b"HTTP/1.1 200 OK\r\n \0" + b"x" * 70 + told(request).encode() + b"\r\n\r\n", Close()],
    ),
    "a chunk's size": (
        TransportError,
        lambda request: [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            request.headers["authorization"].encode() + b"\r\n",
            Close(),
        ],
    ),
    "an encoding": (TransportError, lambda request: _headers(request, "content-encoding")),
    "a transfer encoding": (TransportError, lambda request: _headers(request, "transfer-encoding")),
    "a length": (TransportError, lambda request: _headers(request, "content-length")),
    "reset": (TransportError, [Reset()]),
    "silent": (TransportError, [Stall()]),
    "400": (BadRequestError, lambda request: _error(request, 400)),
    "400, flat": (BadRequestError, lambda request: reply(400, {"message": told(request), "type": "x", "code": 400})),
    "400, text": (BadRequestError, lambda request: reply(400, told(request).encode())),
    "400, a page": (
        BadRequestError,
        lambda request: reply(400, f"<html><title>{told(request)}</title>".encode(), content_type="text/html"),
    ),
    "400, twice in JSON": (BadRequestError, lambda request: reply(400, {"error": json.dumps({"x": told(request)})})),
    "400, at the cut": (
        BadRequestError,
        lambda request: reply(400, b"x" * 4060 + request.headers["authorization"].encode()),
    ),
    "400, beyond what is read": (
        BadRequestError,
        lambda request: reply(400, b"x" * 470 + b" " * 65_000 + told(request).encode()),
    ),
    "400, compressed": (
        BadRequestError,
        lambda request: reply(400, gzip.compress(told(request).encode()), headers={"content-encoding": "gzip"}),
    ),
    "400, its id": (BadRequestError, lambda request: reply(400, {"request_id": told(request)})),
    "400, its id in a header": (
        BadRequestError,
        lambda request: reply(400, {}, headers={"x-request-id": request.headers["authorization"]}),
    ),
    "400, unsupported": (
        UnsupportedParameterError,
        lambda request: reply(400, {"error": f"Unsupported parameter(s): {told(request)}"}),
    ),
    "401": (UnauthorizedError, lambda request: _error(request, 401)),
    "403": (UnauthorizedError, lambda request: _error(request, 403)),
    "404": (NotFoundError, lambda request: _error(request, 404)),
    "429": (OverloadedError, lambda request: _error(request, 429)),
    "499": (EngineError, lambda request: _error(request, 499)),
    "503": (OverloadedError, lambda request: reply(503, {"message": f"Generation is paused {told(request)}"})),
    "500": (EngineError, lambda request: _error(request, 500)),
    "302": (
        ServerError,
        lambda request: reply(302, told(request).encode(), headers={"location": f"http://me:{quote(PASSWORD)}@h"}),
    ),
    "200, an error": (ServerError, lambda request: reply(200, {"error": {"message": told(request)}})),
    "200, an error beside choices": (ServerError, lambda request: reply(200, {"error": told(request), "choices": []})),
    "no JSON": (MalformedBodyError, lambda request: reply(200, told(request).encode())),
    "JSON that is cut": (MalformedBodyError, lambda request: reply(200, json.dumps(body(request)).encode()[:-1])),
    "a repeated key": (
        MalformedBodyError,
        lambda request: reply(200, json.dumps(body(request)).encode()[:-1] + b',"choices":[]}'),
    ),
    "ids that are texts": (MalformedBodyError, lambda request: reply(200, body(request, token_ids=[told(request)]))),
    "no ids": (MissingFieldError, lambda request: reply(200, body(request, token_ids=None))),
    "another count": (AlignmentError, lambda request: reply(200, body(request, token_ids=[7, 8]))),
    "another token": (AlignmentError, lambda request: reply(200, body(request, token_ids=[8]))),
    "experts that are none": (
        RoutedExpertsError,
        lambda request: reply(200, body(request, routed_experts={told(request): 1})),
    ),
    "experts of another type": (
        RoutedExpertsError,
        lambda request: reply(
            200, body(request, routed_experts={"data": "AAAA", "shape": [3, 1, 1], "dtype": told(request)})
        ),
    ),
    "experts that are texts": (
        RoutedExpertsError,
        lambda request: reply(200, body(request, routed_experts=told(request))),
    ),
}


def _error(request: Received, status: int) -> Answer:
    return reply(status, {"error": {"message": told(request), "request_id": told(request)}})


def _headers(request: Received, name: str) -> Answer:
    return reply(200, b"{}", headers={name: request.headers["authorization"]})


def everything(error: BaseException) -> Iterator[str]:
    """All that can be seen of an error, and of those that it drags along."""
    todo: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while todo:
        each = todo.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        todo += [each.__cause__, each.__context__]
        assert type(each).__module__.split(".")[0] not in {"httpx", "httpcore", "h11", "aiohttp", "ssl"}
        yield from (str(each), repr(each), str(each.args), str(vars(each)), "".join(traceback.format_exception(each)))
        yield from getattr(each, "__notes__", ())


def check(text: str) -> None:
    for spelling in spellings():
        assert spelling not in text


def client_of(connect: Connect, url: str) -> Driver:
    url = url.replace("//", f"//someone:{quote(PASSWORD, safe='')}@")
    return connect(url, api_key=KEY, headers={"x-api-key": TEAM}, retries=QUICK, compression=True)


@pytest.mark.parametrize("play", PLAYS)
def test_what_a_server_sends_back(
    connect: Connect, server: RawServer, caplog: pytest.LogCaptureFixture, play: str
) -> None:
    caplog.set_level(logging.DEBUG)
    expected, script = PLAYS[play]
    server.play(script)
    client = client_of(connect, server.url)
    with pytest.raises(expected) as caught:
        client.generate(deadline=SHORT if play == "silent" else LONG, extra_headers={"x-session-token": CALL})
    sent = server.requests[0].headers
    assert (sent["authorization"], sent["x-api-key"], sent["x-session-token"]) == (f"Bearer {KEY}", TEAM, CALL)
    for text in everything(caught.value):
        check(text)
    check(repr(pickle.dumps(caught.value)))
    check(str(vars(copy.copy(caught.value))))
    check(repr(client.client))
    # httpcore logs the headers of answers; what is in them is the server's doing, and its logger's name says whose.
    for record in caplog.records:
        if record.name.split(".")[0] != "httpcore":
            check(record.getMessage())
    server.requests.clear()
    whole(client, server, hits=0)


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "Cookie", "X-Auth-Token", "x-amz-signature"])
def test_keys_of_one_call(connect: Connect, server: RawServer, name: str) -> None:
    server.play(lambda request: reply(400, told(request).encode()))
    with pytest.raises(BadRequestError) as caught:
        connect().generate(extra_headers={name: CALL}, deadline=LONG)
    for text in everything(caught.value):
        assert CALL not in text
        assert CALL[:8] not in text


def test_a_closed_port(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with refusing() as url, pytest.raises(TransportError) as caught:
        client_of(connect, url).generate(deadline=LONG)
    for text in everything(caught.value):
        check(text)
    # The retries are logged, the keys are not.
    assert "sending again" in caplog.text
    check(caplog.text)


def test_a_whole_answer_is_not_logged(connect: Connect, server: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.play(lambda request: reply(200, body(request, finish_reason="stop", stop_reason=None)))
    assert client_of(connect, server.url).generate(deadline=LONG).token_ids.tolist() == [7]
    check(caplog.text)


@pytest.mark.parametrize(
    "url",
    [
        "http://someone:{}@host?x=1",
        "http://host/v1?api_key={}",
        "http://host/v1?a=b&access_token={}#x",
        "ftp://someone:{}@host",
        "//someone:{}@host",
        "http://someone:{}@[host",
        "http://someone:{}@host:port",
        "http://someone:{}@host\u2100",
        "http://some{}one@:80",
    ],
)
@pytest.mark.parametrize("secret", ["hunter2-very-secret", "with/a-slash-very-secret", "with@an-at-very-secret"])
def test_addresses_that_are_refused(url: str, secret: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        make_endpoint(url.format(secret))
    assert "very-secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "very-secret" not in "".join(traceback.format_exception(caught.value)).partition("Traceback")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot reach http://me:se/cret@host:1/x", "cannot reach http://me:se/cret@host:1/x"),
        ("http://me:p@ss@host/a@b", "http://***@host/a@b"),
        ("https://h/?api_key=abc&n=1 failed", "https://h/?api_key=***&n=1 failed"),
        ("https://h/?n=1&X-Signature=abc", "https://h/?n=1&X-Signature=***"),
        ("https://h/?n=1#frag", "https://h/?n=1#frag"),
    ],
)
def test_urls_in_texts(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_masked_texts() -> None:
    assert hidden("a sk-123456789 b", ["sk-123456789"]) == "a *** b"
    assert hidden("a sk-12345", ["sk-123456789"]) == "a ***"
    assert hidden("sk-123456789sk-123456789", ["sk-123456789"]) == "******"
    assert hidden("short k", ["k"]) == "short ***"
    assert hidden("nothing", []) == "nothing"
    assert hidden('say \\"x\\" twice', ['say "x"']) == "*** twice"
    # No more work than the text is long.
    assert hidden("sk-12345" * 10_000, ["sk-123456789"]) == "***" * 10_000


def test_secret_headers() -> None:
    headers = {"authorization": "Bearer abc", "x-api-key": "def", "cookie": "a=ghi", "accept": "json", "x-token": ""}
    assert secrets_of(headers) == ("abc", "def", "a=ghi")


def test_representations() -> None:
    endpoint = make_endpoint(f"http://someone:{quote(PASSWORD, safe='')}@h", api_key=KEY, headers={"x-api-key": TEAM})
    check(repr(endpoint))
    check(repr(Limits()))
