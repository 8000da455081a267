"""Requests aborted over every client, on each route of each server."""

from __future__ import annotations

from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport
from support.raw_server import Answer, RawServer, reply

from .test_streams import STREAM, Connect

NO_ROUTE = reply(404, {"detail": "Not Found"})
ABORTED = reply(200, b"")


@pytest.mark.parametrize(
    ("transport", "answers", "expected"),
    [
        ("vllm_generate", [ABORTED], [("/inference/v1/abort_requests", {"request_ids": ["generate-tokens-r"]})]),
        (
            "prime_chat_tokens",
            [NO_ROUTE, reply(200, {"status": "aborted", "aborted": 1})],
            [(path, {"request_ids": ["chatcmpl-r"]}) for path in ("/inference/v1/abort_requests", "/abort_requests")],
        ),
        ("sglang_generate", [ABORTED], [("/abort_request", {"rid": "r"})]),
        (
            "sglang_generate",
            [NO_ROUTE, reply(200, {"status": "ok"})],
            [("/abort_request", {"rid": "r"}), ("/engine/abort_request", {"request_id": "r"})],
        ),
    ],
)
def test_the_routes_of_abort(
    connect: Connect, server: RawServer, transport: RendererTransport, answers: list[Answer], expected: list[Any]
) -> None:
    client = connect(transport=transport, model=None if transport == "sglang_generate" else "m")
    server.play(reply(400, {"error": "seen enough"}))
    with pytest.raises(tito.BadRequestError):
        client.generate(request_id="r")
    server.play(*answers)
    client.abort("r")
    assert [(request.path, request.json) for request in server.requests[1:]] == expected


def test_abort_of_a_stream_by_its_own_id(connect: Connect, server: RawServer) -> None:
    server.play(STREAM)
    client = connect()
    _, stream = client.stream()
    assert server.requests[0].headers["x-request-id"] == stream.request_id
    server.play(ABORTED)
    client.abort(f"generate-tokens-{stream.request_id}")
    assert server.requests[1].json == {"request_ids": [f"generate-tokens-{stream.request_id}"]}


def test_abort_on_dynamo(connect: Connect, server: RawServer) -> None:
    """The frontend has no route; the workers know the request under the id that the client made up for it."""
    client = connect(transport="dynamo_chat")
    server.play(reply(400, {"error": "seen enough"}))
    with pytest.raises(tito.BadRequestError):
        client.generate(request_id="turn 1")
    server.play(NO_ROUTE)
    with pytest.raises(tito.NotFoundError) as caught:
        client.abort("turn 1")
    assert "admin_base_url" in str(caught.value.__notes__)
    server.play(
        reply(200, {"status": "ok"}), reply(200, {"status": "error", "message": "Missing 'request_id' in body"})
    )
    workers = [server.url, f"{server.url}/second"]
    with pytest.raises(tito.ServerError, match="Missing 'request_id' in body"):
        client.abort("turn 1", admin_base_url=workers)
    engine_id = server.requests[0].headers["x-dynamo-request-id"]
    paths = ["/engine/abort_request", "/engine/abort_request", "/second/engine/abort_request"]
    assert [(request.path, request.json["request_id"]) for request in server.requests[1:]] == [
        (path, engine_id) for path in paths
    ]


def test_abort_of_what_is_not_ours(connect: Connect, server: RawServer) -> None:
    client = connect(transport="sglang_generate", model=None)
    for request_id in ("r", "generate-tokens-r", ""):
        with pytest.raises(ValueError, match="was sent by this client"):
            client.abort(request_id)
    with pytest.raises(TypeError, match="must be a string"):
        client.abort(7)  # type: ignore[arg-type]
    assert server.hits == 0
    server.play(reply(400, {"error": "seen enough"}))
    for arguments in ({"request_id": "r1"}, {"request_id": "r10"}, {}):
        with pytest.raises(tito.BadRequestError):
            client.generate(**arguments)
    with pytest.raises(ValueError, match="'r1', and so 'r10' too"):
        client.abort("r1")
    assert server.hits == 3
    server.play(ABORTED)
    client.abort("r10")
    assert server.hits == 4
