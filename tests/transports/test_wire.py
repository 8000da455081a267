"""The bytes that reach the server, and the results of its answers, over every HTTP library."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dynamo_tito._config import RendererTransport
from dynamo_tito._errors import AlignmentError, MissingFieldError, ServerError
from dynamo_tito._requests import DIALECTS, encode_request
from support.captures import FOLDER
from support.driver import PROMPT, Driver
from support.raw_server import Close, RawServer, chunked, head, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]

PATHS = {
    "vllm_generate": "/inference/v1/generate",
    "dynamo_chat": "/v1/chat/completions",
    "dynamo_completions": "/v1/completions",
    "prime_chat_tokens": "/v1/chat/completions/tokens",
    "vllm_completions": "/v1/completions",
    "sglang_generate": "/generate",
    "sglang_chat": "/v1/chat/completions",
}
ANSWERS = {
    "vllm_generate": "generate_basic",
    "dynamo_chat": "chat_engine_data_logprobs",
    "dynamo_completions": "completions_int_prompt_engine_data",
}


@pytest.fixture(params=sorted(PATHS))
def transport(request: pytest.FixtureRequest) -> RendererTransport:
    chosen: RendererTransport = request.param
    return chosen


def test_paths_are_those_of_the_servers() -> None:
    assert {name: spec.path for name, spec in DIALECTS.items()} == PATHS


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_request_as_it_arrives(
    connect: Connect, server: RawServer, transport: RendererTransport, suffix: str
) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    arguments: dict[str, Any] = {
        "sampling_params": {"max_tokens": 3, "temperature": 0.5},
        "stop_token_ids": [7],
        "cache_salt": "s",
        "priority": 2,
        "session_id": "conversation",
        "data_parallel_rank": 1,
        "request_id": "r-1",
    }
    model = None if transport == "sglang_generate" else "tito-model"
    with pytest.raises(ServerError):
        connect(server.url + suffix, transport=transport, model=model).generate(**arguments)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", PATHS[transport])
    assert request.body == encode_request(transport, model=model, prompt_ids=PROMPT, **arguments)
    headers = request.headers
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["content-length"] == str(len(request.body))
    assert "authorization" not in headers
    assert "transfer-encoding" not in headers


def test_a_prefix_of_the_path_is_kept(connect: Connect, server: RawServer) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    with pytest.raises(ServerError):
        connect(f"{server.url}/cluster-7/v1").generate()
    assert server.requests[0].path == "/cluster-7/inference/v1/generate"


UUID = "11111111-2222-4333-8444-555555555555"
BOTH = {"x-request-id": UUID, "x-dynamo-request-id": UUID}


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        ("vllm_generate", {"x-session-id": "s", "x-data-parallel-rank": "3", "x-request-id": UUID}),
        ("prime_chat_tokens", {"x-session-id": "s", "x-data-parallel-rank": "3", "x-request-id": UUID}),
        ("dynamo_chat", {"x-dynamo-session-id": "s", "x-dynamo-dp-rank": "3", **BOTH}),
        ("dynamo_completions", {"x-dynamo-session-id": "s", "x-dynamo-dp-rank": "3", **BOTH}),
        ("vllm_completions", {"x-session-id": "s", "x-data-parallel-rank": "3", "x-request-id": UUID}),
        ("sglang_generate", {}),
        ("sglang_chat", {}),
    ],
)
def test_session_rank_and_request_id(
    connect: Connect, server: RawServer, transport: RendererTransport, expected: dict[str, str]
) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    model = None if transport == "sglang_generate" else "tito-model"
    with pytest.raises(ServerError):
        connect(transport=transport, model=model).generate(session_id="s", data_parallel_rank=3, request_id=UUID)
    sent = server.requests[0].headers
    assert {name: value for name, value in sent.items() if name.startswith("x-")} == expected
    if transport == "sglang_generate":
        body = server.requests[0].json
        assert (body["session_id"], body["routed_dp_rank"], body["rid"]) == ("s", 3, UUID)


def test_dynamo_gets_a_uuid_of_the_request_for_the_engine(connect: Connect, server: RawServer) -> None:
    """It makes up its own for another id, and the request could not be aborted."""
    server.play(reply(400, {"error": "seen enough"}))
    client = connect(transport="dynamo_chat")
    for _ in range(2):
        with pytest.raises(ServerError):
            client.generate(request_id="r")
    first, second = (uuid.UUID(request.headers["x-dynamo-request-id"]) for request in server.requests)
    assert first != second
    assert {request.headers["x-request-id"] for request in server.requests} == {"r"}


def test_headers_of_the_client_and_of_the_call(connect: Connect, server: RawServer) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    client = connect(api_key="k", headers={"X-Team": "rl", "X-Both": "client"})
    with pytest.raises(ServerError):
        client.generate(extra_headers={"x-both": "call", "Traceparent": "00-a-b-01"})
    sent = server.requests[0].headers
    assert sent["authorization"] == "Bearer k"
    assert (sent["x-team"], sent["x-both"], sent["traceparent"]) == ("rl", "call", "00-a-b-01")


def test_credentials_of_the_url_become_a_header(connect: Connect, server: RawServer) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    with pytest.raises(ServerError):
        connect(server.url.replace("//", "//me:p%40ss@")).generate()
    assert server.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize("transport", sorted(ANSWERS))
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_answers(
    connect: Connect, server: RawServer, recorded: Recorded, transport: RendererTransport, framing: str
) -> None:
    body = recorded(ANSWERS[transport])
    if framing == "length":
        server.play(reply(200, body))
    elif framing == "chunks":
        server.play(chunked(200, [body[:1], body[1:7], body[7:]]))
    else:
        server.play([head(200, {"connection": "close"}) + body, Close()])
    completion = connect(transport=transport).generate()
    assert completion.token_ids.tolist() == [1000, 1001, 1002, 1003]
    assert completion.logprobs is not None
    assert np.allclose(completion.logprobs, [-0.01, -0.02, -0.03, -0.04], atol=1e-7)
    assert completion.routed_experts is not None
    assert completion.routed_experts.array.shape == (8, 4, 2)
    assert completion.complete
    assert server.hits == 1


def test_connections_are_kept(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    client = connect()
    for _ in range(5):
        client.generate()
    assert (server.hits, server.connections) == (5, 1)


def test_the_transport_of_one_call(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("chat_engine_data_logprobs")), reply(200, recorded("generate_basic")))
    client = connect(transport="vllm_generate")
    client.generate(transport="dynamo_chat")
    client.generate()
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/inference/v1/generate"]


def test_logprobs_are_required_unless_none_were_asked_for(
    connect: Connect, server: RawServer, recorded: Recorded
) -> None:
    server.play(reply(200, recorded("chat_engine_data_no_logprobs")))
    client = connect(transport="dynamo_chat")
    with pytest.raises(MissingFieldError):
        client.generate()
    assert client.generate(sampling_params={"logprobs": 0}).logprobs is None


def test_the_answer_must_be_to_this_prompt(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("chat_engine_data_logprobs")))
    with pytest.raises(AlignmentError):
        connect(transport="dynamo_chat").generate([1, 2, 3, 4, 6])


def test_the_rows_must_fit_this_prompt(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    with pytest.raises(ValueError, match="rows"):
        connect().generate([1, 2, 3, 4])


def test_absent_routing_is_an_error_if_it_is_required(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    body = json.loads(recorded("generate_basic"))
    body["choices"][0]["routed_experts"] = None
    server.play(reply(200, body))
    assert connect().generate().routed_experts is None
    with pytest.raises(MissingFieldError):
        connect(require_routed_experts=True).generate()


def test_experts_as_the_client_wants_them(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(200, recorded("generate_basic")))
    native = connect(experts="native").generate().routed_experts
    assert native is not None
    assert native.array.dtype == np.uint8
    assert connect(experts="skip").generate().routed_experts is None


def test_several_samples_are_refused_unsent(connect: Connect, server: RawServer, transport: RendererTransport) -> None:
    server.play(reply(200, {}))
    with pytest.raises(ValueError, match="n "):
        connect(transport=transport).generate(sampling_params={"n": 2})
    assert server.hits == 0


def test_routing_that_could_not_be_read_is_not_asked_for(connect: Connect, server: RawServer) -> None:
    server.play(reply(400, {"error": {"message": "seen enough"}}))
    client = connect(transport="sglang_generate")
    with pytest.raises(ValueError, match="num_layers and top_k"):
        client.generate(routed_experts_prompt_start=1)
    assert server.hits == 0
    for options, asked in (({}, None), ({"num_layers": 4, "top_k": 2}, True)):
        with pytest.raises(ServerError):
            connect(transport="sglang_generate", model=None, **options).generate()
        assert server.requests[-1].json.get("return_routed_experts") is asked


def test_the_recordings_exist() -> None:
    assert all((FOLDER / f"{name}.json").exists() for name in ANSWERS.values())
