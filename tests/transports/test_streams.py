"""Streams over every client: what is asked, what comes of it, and what is kept of one that breaks off."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport
from dynamo_tito._requests import encode_request
from support.driver import PROMPT, Driver, Kind
from support.raw_server import Answer, Close, Endlessly, RawServer, Stall, chunked, head, reply
from support.small import generated, streamed

Connect = Callable[..., Driver]

TOKENS = [7, 8, 9]
EVENTS = streamed(TOKENS)
WHOLE = b"".join(EVENTS)
STREAM: Answer = chunked(200, EVENTS, headers={"content-type": "text/event-stream"})
UNARY: Answer = reply(200, generated(TOKENS))
NOT_WHOLE: Answer = reply(501, {"error": {"message": "not implemented; set stream=true"}})
NOT_STREAMED: Answer = reply(501, {"error": {"message": "streaming (stream=true) is not implemented", "code": 501}})
BROKEN: Answer = [*chunked(200, EVENTS[:2], end=False), Close()]
STALLED: Answer = [*chunked(200, EVENTS[:2], end=False), Stall()]


def untimed(completion: tito.Completion) -> tito.Completion:
    return dataclasses.replace(completion, timing=None)


# ------------------------------------------------------------------------------------------------ whole streams


@pytest.mark.parametrize("framing", ["chunks", "one chunk", "bytes", "length", "close"])
def test_a_stream_gives_what_the_whole_answer_gives(connect: Connect, server: RawServer, framing: str) -> None:
    answers: dict[str, Answer] = {
        "chunks": STREAM,
        "one chunk": chunked(200, [WHOLE]),
        "bytes": chunked(200, [WHOLE[at : at + 1] for at in range(len(WHOLE))]),
        "length": reply(200, WHOLE),
        "close": [head(200, {"connection": "close"}) + WHOLE, Close()],
    }
    server.play(UNARY, answers[framing])
    client = connect()
    whole = client.generate()
    assert whole.timing is None
    deltas, stream = client.stream()
    assert untimed(stream.completion).equals(whole)
    assert np.concatenate([delta.token_ids for delta in deltas]).tolist() == TOKENS
    assert [delta.start for delta in deltas] == np.cumsum([0, *(len(delta.token_ids) for delta in deltas)])[
        :-1
    ].tolist()
    assert [delta.finish_reason for delta in deltas][-1] == "stop"
    assert untimed(client.generate(stream=True)).equals(whole)
    assert server.hits == 3


def test_a_connection_is_used_again(connect: Connect, server: RawServer) -> None:
    server.play(STREAM)
    client = connect(max_concurrency=1)
    for _ in range(3):
        client.stream()
        client.generate(stream=True)
    assert (server.hits, server.connections) == (6, 1)


def test_the_times_of_the_tokens(connect: Connect, server: RawServer) -> None:
    server.play(STREAM)
    _, stream = connect().stream()
    timing = stream.completion.timing
    assert timing is not None
    assert timing.arrivals.dtype == np.float64
    assert len(timing.arrivals) == len(TOKENS)
    assert timing.first_token == timing.arrivals[0] > 0
    assert (timing.between_tokens >= 0).all()
    assert len(timing.between_tokens) == len(TOKENS) - 1
    assert pickle.loads(pickle.dumps(stream.completion)).equals(stream.completion)


def test_no_times_without_tokens() -> None:
    timing = tito.Timing(np.empty(0))
    assert timing.first_token is None
    assert len(timing.between_tokens) == 0


def test_a_body_that_does_not_end_behind_the_end_of_the_stream(connect: Connect, server: RawServer) -> None:
    server.play([*chunked(200, EVENTS, end=False), Stall()], [*chunked(200, EVENTS, end=False), Close()], STREAM)
    client = connect(max_concurrency=1)
    for _ in range(3):
        assert client.generate(stream=True).token_ids.tolist() == TOKENS
    assert server.hits == 3


def test_comments_without_an_end_behind_the_end_of_the_stream(connect: Connect, server: RawServer) -> None:
    server.play([*chunked(200, EVENTS, end=False), Endlessly(b"8\r\n: ping\n\n\r\n", 0.05)])
    assert connect().generate(stream=True).token_ids.tolist() == TOKENS
    server.wait_until(lambda: server.open_connections == 0)


def test_an_answer_that_is_no_stream(connect: Connect, server: RawServer) -> None:
    server.play(UNARY)
    with pytest.raises(tito.MalformedBodyError) as caught:
        connect().generate(stream=True)
    assert caught.value.kind == "not_a_stream"


def test_a_stream_without_an_end(connect: Connect, server: RawServer) -> None:
    server.play(chunked(200, EVENTS[:2]))
    client = connect()
    with pytest.raises(tito.MalformedBodyError) as caught:
        client.generate(stream=True)
    assert caught.value.kind == "unfinished_stream"
    assert client.generate(on_interrupt="return").token_ids.tolist() == TOKENS[:2]
    assert server.hits == 2


@pytest.mark.parametrize(
    ("headers", "body", "limits", "match"),
    [
        ({"content-encoding": "br"}, WHOLE, None, "content-encoding 'br'"),
        ({"content-encoding": "gzip"}, WHOLE, None, "not what its content-encoding says"),
        ({"content-encoding": "gzip"}, gzip.compress(WHOLE)[:-40], None, "cut short"),
        (
            {"content-encoding": "gzip"},
            gzip.compress(WHOLE),
            tito.Limits(max_decompressed_bytes=99),
            "max_decompressed",
        ),
        ({}, WHOLE, tito.Limits(max_response_bytes=99), "max_response_bytes"),
        ({"x": "y" * 999}, WHOLE, tito.Limits(max_header_bytes=500), r"max_header_bytes|more than 500 bytes"),
    ],
)
def test_limits_and_encodings(
    connect: Connect, server: RawServer, headers: dict[str, str], body: bytes, limits: tito.Limits | None, match: str
) -> None:
    server.play(chunked(200, [body], headers=headers))
    client = connect(limits=limits)
    with pytest.raises(tito.TransportError, match=match):
        client.generate(stream=True)
    assert server.hits == 1


def test_a_compressed_stream(connect: Connect, server: RawServer) -> None:
    packed = gzip.compress(WHOLE)
    server.play(chunked(200, [packed[:30], packed[30:]], headers={"content-encoding": "gzip"}))
    assert connect(compression=True).generate(stream=True).token_ids.tolist() == TOKENS


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, tito.BadRequestError), (401, tito.UnauthorizedError), (404, tito.NotFoundError), (500, tito.EngineError)],
)
def test_a_refusal_is_that_of_a_whole_answer(
    connect: Connect, server: RawServer, status: int, expected: type[tito.ServerError]
) -> None:
    server.play(reply(status, {"error": {"message": "no"}}), STREAM)
    client = connect(max_concurrency=1)
    with pytest.raises(expected, match=f"^HTTP {status}: no") as caught:
        client.stream(on_interrupt="return")
    assert caught.value.status == status
    assert not hasattr(caught.value, "completion")
    assert client.generate(stream=True).token_ids.tolist() == TOKENS


def test_what_was_not_started_is_sent_again(connect: Connect, server: RawServer) -> None:
    later = reply(429, {"error": "later"})
    server.play(later, later, STREAM)
    client = connect(retries=tito.RetryPolicy(initial=0.0, maximum=0.0), max_concurrency=1)
    deltas, stream = client.stream()
    assert len(stream.completion.token_ids) == sum(len(delta.token_ids) for delta in deltas) == 3
    assert server.hits == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"error": {"message": "m sk-1234", "code": 400}}, tito.BadRequestError),
        ({"error": {"message": "m sk-1234", "code": 503}}, tito.OverloadedError),
        ({"error": {"message": "m sk-1234", "code": 500}}, tito.EngineError),
        ({"error": {"message": "m sk-1234"}}, tito.ServerError),
        ({"error": {"message": "m sk-1234", "code": "x"}}, tito.ServerError),
    ],
)
def test_an_error_within_a_stream(
    connect: Connect, server: RawServer, error: dict[str, Any], expected: type[tito.ServerError]
) -> None:
    event = b"data: " + json.dumps(error).encode() + b"\n\n"
    server.play(chunked(200, [*EVENTS[:2], event, EVENTS[-1]]))
    client = connect(api_key="sk-1234", retries=tito.RetryPolicy(initial=0.0, maximum=0.0))
    for keeps in (False, True):
        with pytest.raises(expected) as caught:
            client.generate(stream=True, request_id="mine", on_interrupt="return" if keeps else "raise")
        assert type(caught.value) is expected
        assert (caught.value.status, caught.value.retryable, caught.value.request_id) == (None, False, "mine")
        assert "sk-1234" not in str(caught.value) + caught.value.body
        assert hasattr(caught.value, "completion") is keeps
        if keeps:
            assert pickle.loads(pickle.dumps(caught.value)).completion.token_ids.tolist() == TOKENS[:2]
    assert server.hits == 2


# ------------------------------------------------------------------------------------------------ 501


def test_a_route_without_whole_answers_is_learnt(connect: Connect, server: RawServer) -> None:
    def answer(request: Any) -> Answer:
        return STREAM if request.json.get("stream") else NOT_WHOLE

    server.play(answer)
    client = connect()
    for hits in (2, 3, 4):
        assert client.generate().token_ids.tolist() == TOKENS
        assert server.hits == hits
    with pytest.raises(tito.UnsupportedRouteError):
        client.generate(stream=False)
    # Another route of the same server, and another server.
    client.generate(transport="dynamo_chat")
    assert server.hits == 7
    assert connect().generate().token_ids.tolist() == TOKENS
    assert server.hits == 9


def test_a_route_with_neither(connect: Connect, server: RawServer) -> None:
    server.play(NOT_WHOLE, NOT_STREAMED, UNARY)
    client = connect()
    with pytest.raises(tito.UnsupportedRouteError, match="streaming"):
        client.generate()
    assert client.generate().token_ids.tolist() == TOKENS
    assert server.hits == 3


@pytest.mark.parametrize("options", [{"stream": True}, {"on_interrupt": "return"}])
def test_a_route_without_streams_is_an_error(connect: Connect, server: RawServer, options: dict[str, Any]) -> None:
    server.play(NOT_STREAMED)
    client = connect()
    with pytest.raises(tito.UnsupportedRouteError, match="is not implemented"):
        client.generate(**options)
    with pytest.raises(tito.UnsupportedRouteError, match="is not implemented"):
        client.stream()
    assert server.hits == 2


# ------------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize("answer", [BROKEN, STALLED], ids=["broken", "silent"])
def test_a_broken_stream(connect: Connect, server: RawServer, answer: Answer) -> None:
    server.play(answer, answer, answer, STREAM)
    client = connect(retries=tito.RetryPolicy(initial=0.0, maximum=0.0), max_concurrency=1)
    deadline = 0.5 if answer is STALLED else 60.0
    with pytest.raises(tito.TransportError) as caught:
        client.generate(stream=True, deadline=deadline)
    assert caught.value.phase == "body"
    assert not hasattr(caught.value, "completion")
    kept = client.generate(on_interrupt="return", deadline=deadline)
    assert kept.token_ids.tolist() == TOKENS[:2]
    assert (kept.aborted, kept.complete, kept.finish_reason) == (True, False, "abort")
    assert kept.timing is not None
    assert len(kept.timing.arrivals) == 2
    deltas, stream = client.stream(on_interrupt="return", deadline=deadline)
    assert [int(token) for delta in deltas for token in delta.token_ids] == TOKENS[:2]
    assert untimed(stream.completion).equals(untimed(kept))
    assert server.hits == 3
    assert client.generate(stream=True).token_ids.tolist() == TOKENS


@pytest.mark.parametrize("answer", [[Stall()], [head(200, {}), Stall()], [Close()]], ids=["silent", "head", "closed"])
def test_a_stream_that_did_not_begin(connect: Connect, server: RawServer, answer: Answer) -> None:
    server.play(answer)
    kept = connect().generate(on_interrupt="return", deadline=60.0 if answer == [Close()] else 0.5)
    assert (kept.token_ids.tolist(), kept.aborted, kept.index) == ([], True, 0)
    assert server.hits == 1


def test_what_was_not_sent_is_no_interruption(kind: Kind) -> None:
    with Driver(kind, "http://engine.invalid:8000", retries=None, trust_env=False) as client:
        with pytest.raises(tito.TransportError) as caught:
            client.generate(on_interrupt="return")
        assert caught.value.phase == "connect"


def test_what_the_client_itself_finds_is_no_error_within_a_stream(connect: Connect, server: RawServer) -> None:
    server.models = reply(200, {"data": [{"id": "another"}]})
    client = connect(transport="sglang_generate", num_layers=1, top_k=1)
    with pytest.raises(tito.NotFoundError, match="lists another") as caught:
        client.generate(on_interrupt="return")
    assert not hasattr(caught.value, "completion")
    assert server.hits == 0


def test_the_strict_checks_are_those_of_whole_answers(connect: Connect, server: RawServer) -> None:
    document = generated([7] * 40)
    for entry in document["choices"][0]["logprobs"]["content"]:
        entry["logprob"] = 0.0
    event = b"data: " + json.dumps(document).encode() + b"\n\ndata: [DONE]\n\n"
    server.play(chunked(200, [event]))
    with pytest.raises(tito.MissingFieldError) as caught:
        connect(strict_logprobs=True).generate(stream=True)
    assert caught.value.kind == "logprobs"


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"on_interrupt": "keep"}, ValueError, "on_interrupt must be one of raise, return"),
        ({"on_interrupt": "return", "stream": False}, ValueError, "needs a stream"),
        ({"stream": 1}, TypeError, "stream must be True, False or None"),
        ({"stream": True, "sampling_params": {"prompt_logprobs": 1}}, ValueError, "vllm_generate brings none"),
        (
            {"stream": True, "transport": "prime_chat_tokens", "routed_experts_prompt_start": 1},
            ValueError,
            "prime_chat_tokens brings none",
        ),
        (
            {"stream": True, "transport": "prime_chat_tokens", "sampling_params": {"prompt_logprobs": 1}},
            ValueError,
            "prime_chat_tokens brings none",
        ),
        ({"stream": True, "sampling_params": {"n": 2}}, ValueError, "n is 2"),
        ({"stream": True, "extra_body": {"stream": True}}, ValueError, "stream cannot be given here"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    connect: Connect, server: RawServer, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        connect().generate(**options)
    assert server.hits == 0


def test_required_routing_that_a_stream_does_not_bring(connect: Connect, server: RawServer) -> None:
    client = connect(transport="prime_chat_tokens", require_routed_experts=True)
    for call in (client.stream, lambda: client.generate(on_interrupt="return")):
        with pytest.raises(ValueError, match="brings no routed experts"):
            call()
    assert server.hits == 0


@pytest.mark.parametrize("transport", ["vllm_generate", "dynamo_chat", "dynamo_completions", "prime_chat_tokens"])
def test_the_request_of_a_stream(connect: Connect, server: RawServer, transport: RendererTransport) -> None:
    server.play(reply(400, {"error": "seen enough"}))
    with pytest.raises(tito.BadRequestError):
        connect(transport=transport).stream(request_id="r")
    (request,) = server.requests
    arguments: dict[str, Any] = {"model": "tito-model", "prompt_ids": PROMPT, "request_id": "r"}
    assert request.body == encode_request(transport, stream=True, **arguments)
    assert request.headers["accept"].startswith("text/event-stream")
    whole, body = json.loads(encode_request(transport, **arguments)), request.json
    assert (body.pop("stream"), body.pop("stream_options")) == (True, {"include_usage": True})
    if transport == "prime_chat_tokens":
        assert body.pop("top_logprobs") == 0
    if "nvext" in body:
        assert body["nvext"]["extra_fields"].pop() == "completion_token_ids"
    assert {**body, "stream": False} == {"stream": False, **whole}


def test_the_request_of_a_stream_of_sglang() -> None:
    bodies = [
        json.loads(encode_request("sglang_generate", model=None, prompt_ids=PROMPT, stream=stream))
        for stream in (False, True)
    ]
    assert bodies[1] == {**bodies[0], "stream": True}


def test_stream_options_of_ones_own() -> None:
    own = {"stream_options": {"continuous_usage_stats": True}}
    body = encode_request("vllm_generate", model="m", prompt_ids=PROMPT, stream=True, extra_body=own)
    assert json.loads(body)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
