"""Every form of an error body."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_tito._client.server_errors import error_of
from dynamo_tito._errors import (
    BadRequestError,
    EngineError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnauthorizedError,
    UnsupportedParameterError,
    UnsupportedRouteError,
)
from support.captures import FOLDER, index
from support.driver import Driver
from support.raw_server import RawServer, reply

NESTED = {"error": {"message": "told so", "type": "BadRequestError", "param": None, "code": 400}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message":"told so","type":"Bad Request","code":400}', "told so"),
        (json.dumps(NESTED).encode(), "told so"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"error":"Route not found","message":"no /x"}', "Route not found: no /x"),
        (b'{"detail":[{"loc":["body"],"msg":"missing"}]}', '[{"loc": ["body"], "msg": "missing"}]'),
        (b'{"object":"error","message":"old vLLM","type":"x","param":null,"code":40303}', "old vLLM"),
        (b"Failed to parse the request body as JSON: EOF", "Failed to parse the request body as JSON: EOF"),
        (b'"just text"', "just text"),
        (b"", "Bad Request"),
        (b"   \r\n", "Bad Request"),
        (b"{}", "{}"),
        (b"null", "null"),
        (b'{"error":null}', '{"error":null}'),
        (
            b"<html><head><title>400 Bad\nGateway</title></head></html>",
            "an HTML page, probably of a proxy: 400 Bad Gateway",
        ),
        (b"<!DOCTYPE html><p>", "an HTML page, probably of a proxy: untitled"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, None),
        (b"line one\nline two", "line one line two"),
    ],
)
def test_the_message(body: bytes, said: str | None) -> None:
    error = error_of(400, {}, body)
    if said is not None:
        assert str(error) == f"HTTP 400: {said}"
    assert len(str(error)) < 600
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("status", "message", "expected", "retryable"),
    [
        (400, "no", BadRequestError, False),
        (400, "Validation: Unsupported parameter(s): `foo`", UnsupportedParameterError, False),
        (400, "unknown field `foo`, expected one of `bar`", UnsupportedParameterError, False),
        (401, "", UnauthorizedError, False),
        (403, "", UnauthorizedError, False),
        (403, "Scale-out endpoints are disabled. Restart vllm serve", NotFoundError, False),
        (404, "", NotFoundError, False),
        (405, "", NotFoundError, False),
        (408, "", OverloadedError, False),
        (413, "", BadRequestError, False),
        (415, "", BadRequestError, False),
        (422, "Extra inputs are not permitted", UnsupportedParameterError, False),
        (422, "bad media", BadRequestError, False),
        (429, "", OverloadedError, True),
        (499, "request was cancelled", EngineError, False),
        (500, "", EngineError, False),
        (501, "streaming is not implemented", UnsupportedRouteError, False),
        (502, "", EngineError, False),
        (503, "Internal server error", OverloadedError, False),
        (503, "Service temporarily unavailable", OverloadedError, False),
        (503, "Generation is paused. Please retry after it resumes.", OverloadedError, True),
        (503, "Model `m` is not ready to serve requests yet. The deployment may", OverloadedError, True),
        (500, "Generation is paused. Please retry after it resumes.", EngineError, False),
        (504, "", EngineError, False),
        (307, "", ServerError, False),
        (599, "", EngineError, False),
        (799, "", EngineError, False),
    ],
)
def test_the_class_of_a_status(status: int, message: str, expected: type[ServerError], retryable: bool) -> None:
    for body in (json.dumps({"message": message}), json.dumps({"error": {"message": message}}), message):
        error = error_of(status, {}, body.encode())
        assert type(error) is expected
        assert error.retryable is retryable
        assert error.status == status
        assert error.body == body


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no credentials were sent"),
        ({"api_key": "sk-secret"}, "the credentials that were sent are not accepted"),
        ({"headers": {"Authorization": "Bearer sk-secret"}}, "the credentials that were sent are not accepted"),
    ],
)
def test_a_401_says_whether_a_key_was_sent(
    connect: Callable[..., Driver], server: RawServer, options: dict[str, Any], said: str
) -> None:
    server.play(reply(401, {"error": "Unauthorized"}))
    with pytest.raises(UnauthorizedError) as caught:
        connect(**options).generate()
    assert str(caught.value) == f"HTTP 401: Unauthorized; {said} (api_key=)"


def recorded_refusals() -> list[str]:
    return sorted(
        name
        for name, entry in index().items()
        if entry["status"] >= 400 and name.endswith(".json") and entry["method"] == "POST"
    )


@pytest.mark.parametrize("name", recorded_refusals())
def test_recorded_refusals(name: str) -> None:
    status, body = index()[name]["status"], (FOLDER / name).read_bytes()
    error = error_of(status, {}, body)
    assert error.status == status
    document = json.loads(body) if body[:1] == b"{" else None
    if isinstance(document, dict):
        inner = document["error"] if isinstance(document.get("error"), dict) else document
        assert inner["message"].split()[0] in str(error)
    assert error.retryable is name.startswith("quarantined_")


def test_request_ids() -> None:
    assert error_of(500, {"x-request-id": "header"}, b'{"request_id":"body"}', request_id="ours").request_id == "header"
    assert error_of(500, {}, b'{"request_id":"body"}', request_id="ours").request_id == "body"
    assert error_of(500, {}, b"", request_id="ours").request_id == "ours"
    assert error_of(500, {}, b'{"request_id":7}').request_id is None


def test_over_the_wire(connect: Callable[..., Driver], server: RawServer) -> None:
    server.play(reply(400, NESTED, headers={"X-Request-Id": "r-7"}))
    with pytest.raises(BadRequestError, match="HTTP 400: told so") as caught:
        connect().generate()
    error = caught.value
    assert (error.status, error.request_id, error.retryable) == (400, "r-7", False)
    assert json.loads(error.body) == NESTED
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("status", [401, 404, 500])
def test_empty_bodies(connect: Callable[..., Driver], server: RawServer, status: int) -> None:
    server.play(reply(status, b"", content_type="text/plain"))
    with pytest.raises(ServerError) as caught:
        connect().generate()
    assert (caught.value.status, caught.value.body) == (status, "")


def test_of_a_long_explanation_the_beginning_is_kept(connect: Callable[..., Driver], server: RawServer) -> None:
    server.play(reply(500, b"x" * 3_000_000, content_type="text/plain"))
    with pytest.raises(EngineError) as caught:
        connect().generate()
    assert caught.value.body == "x" * 4096
    assert len(str(caught.value)) < 600


def test_an_error_with_status_200(connect: Callable[..., Driver], server: RawServer) -> None:
    server.play(reply(200, NESTED))
    with pytest.raises(ServerError, match="told so"):
        connect().generate()
    assert server.hits == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(connect: Callable[..., Driver], server: RawServer, status: int) -> None:
    server.play(reply(status, b"", headers={"location": f"http://localhost:{server.port}/elsewhere"}))
    with pytest.raises(ServerError, match="redirects are not followed") as caught:
        connect(api_key="k").generate()
    assert caught.value.status == status
    assert server.hits == 1
    assert not server.lookups


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"x-request-id": "header"}, {"request_id": "body"}, "header"),
        ({}, {"request_id": "body"}, "body"),
        ({}, {}, "ours"),
    ],
)
def test_the_request_id_of_an_error_with_status_200(
    connect: Callable[..., Driver], server: RawServer, headers: dict[str, str], body: dict[str, str], expected: str
) -> None:
    server.play(reply(200, {"error": "told so", **body}, headers=headers))
    for call in ("generate", "score"):
        with pytest.raises(ServerError, match="told so") as caught:
            getattr(connect(), call)([1, 2, 3], request_id="ours")
        assert (caught.value.status, caught.value.request_id) == (None, expected)
        assert json.loads(caught.value.body)["error"] == "told so"
