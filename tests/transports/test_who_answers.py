"""The arguments that choose the server reach it, or no request is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport
from dynamo_tito._requests import encode_request
from support.driver import PROMPT, Driver
from support.raw_server import RawServer, Reset, reply

Connect = Callable[..., Driver]

CARDS = {"data": [{"id": "base", "max_model_len": 64, "parent": None}, {"id": "adapter", "parent": "base"}]}
#: Per transport: the argument, and where the server looks for it. A leading "header:" names a header.
PLACES: dict[RendererTransport, dict[str, str]] = {
    "vllm_generate": {
        "model": "model", "session_id": "header:x-session-id", "data_parallel_rank": "header:x-data-parallel-rank",
        "priority": "priority", "cache_salt": "cache_salt",
    },
    "prime_chat_tokens": {
        "model": "model", "session_id": "header:x-session-id", "data_parallel_rank": "header:x-data-parallel-rank",
        "priority": "priority", "cache_salt": "cache_salt",
    },
    "dynamo_chat": {
        "model": "model", "session_id": "header:x-dynamo-session-id", "data_parallel_rank": "header:x-dynamo-dp-rank",
        "priority": "nvext.agent_hints.priority", "cache_salt": "nvext.cache_salt",
    },
    "dynamo_completions": {
        "model": "model", "session_id": "header:x-dynamo-session-id", "data_parallel_rank": "header:x-dynamo-dp-rank",
        "priority": "nvext.agent_hints.priority", "cache_salt": "nvext.cache_salt",
    },
    "sglang_generate": {
        "model": "lora_path", "session_id": "session_id", "data_parallel_rank": "routed_dp_rank",
        "priority": "priority", "cache_salt": "cache_salt",
    },
}  # fmt: skip
GIVEN = {"session_id": "s", "data_parallel_rank": 3, "priority": 2, "cache_salt": "c"}


@pytest.fixture
def sglang(server: RawServer) -> RawServer:
    server.models = reply(200, CARDS)
    server.play(reply(400, {"error": "seen enough"}))
    return server


def found(server: RawServer, place: str) -> Any:
    request = server.requests[-1]
    kind, _, name = place.rpartition(":")
    if kind:
        return request.headers.get(name)
    value: Any = request.json
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


@pytest.mark.parametrize("transport", PLACES)
@pytest.mark.parametrize("call", ["generate", "score"])
def test_each_argument_is_sent_in_its_place(
    connect: Connect, sglang: RawServer, transport: RendererTransport, call: str
) -> None:
    with pytest.raises(tito.BadRequestError):
        getattr(connect(model="adapter", transport=transport), call)(PROMPT, **GIVEN)
    for argument, place in PLACES[transport].items():
        expected = {"model": "adapter", **GIVEN}[argument]
        assert found(sglang, place) == (str(expected) if place.startswith("header:") else expected), argument


# --- SGLang's /generate names no model ---


@pytest.mark.parametrize("preflight", [True, False])
def test_an_adapter_is_named_and_its_server_asked_once(connect: Connect, sglang: RawServer, preflight: bool) -> None:
    client = connect(model="adapter", transport="sglang_generate", preflight=preflight)
    for _ in range(2):
        with pytest.raises(tito.BadRequestError):
            client.generate()
        assert sglang.requests[-1].json["lora_path"] == "adapter"
    assert len(sglang.lookups) == 1


@pytest.mark.parametrize(
    ("model", "extra_body"),
    [("base", None), (None, None), ("adapter", {"lora_path": None}), (None, {"model": "base"})],
)
def test_the_base_model_is_not(connect: Connect, sglang: RawServer, model: str | None, extra_body: Any) -> None:
    with pytest.raises(tito.BadRequestError):
        connect(transport="sglang_generate", model=model).generate(extra_body=extra_body)
    body = sglang.requests[-1].json
    assert body.get("lora_path") is None
    assert "model" not in body


@pytest.mark.parametrize("extra_body", [{"lora_path": "adapter"}, {"model": "adapter"}])
def test_the_call_chooses_another(connect: Connect, sglang: RawServer, extra_body: dict[str, Any]) -> None:
    with pytest.raises(tito.BadRequestError):
        connect(model="base", transport="sglang_generate").generate(extra_body=extra_body)
    assert sglang.requests[-1].json["lora_path"] == "adapter"


def test_explicit_names_fetch_nothing(connect: Connect, sglang: RawServer) -> None:
    with pytest.raises(tito.BadRequestError):
        connect(model="unlisted", transport="sglang_generate").generate(extra_body={"lora_path": "evicted"})
    assert not sglang.lookups


def test_a_model_that_is_not_listed_is_refused_until_it_is(connect: Connect, sglang: RawServer) -> None:
    client = connect(model="new", transport="sglang_generate")
    with pytest.raises(tito.NotFoundError, match="lists base, adapter, not 'new'"):
        client.generate()
    assert sglang.hits == 0
    sglang.models = reply(200, {"data": [*CARDS["data"], {"id": "new", "parent": "base"}]})
    with pytest.raises(tito.BadRequestError):
        client.generate()
    assert sglang.requests[-1].json["lora_path"] == "new"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(500, b""), tito.EngineError),
        ([Reset()], tito.TransportError),
        (reply(200, b"no JSON"), tito.NotFoundError),
        (reply(200, {"data": []}), tito.NotFoundError),
    ],
)
def test_nothing_is_sent_where_the_name_cannot_be_resolved(
    connect: Connect, sglang: RawServer, answer: Any, error: type[Exception]
) -> None:
    sglang.models = answer
    client = connect(model="adapter", transport="sglang_generate", retries=None)
    for call in (client.generate, client.score):
        with pytest.raises(error):
            call(PROMPT)
    assert sglang.hits == 0


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_a_list_gets_the_name(connect: Connect, sglang: RawServer, status: int) -> None:
    sglang.models = reply(status, b"")
    client = connect(model="adapter", transport="sglang_generate")
    for _ in range(2):
        with pytest.raises(tito.BadRequestError):
            client.generate()
        assert sglang.requests[-1].json["lora_path"] == "adapter"
    assert len(sglang.lookups) == 1


def test_many_scores_ask_once(connect: Connect, sglang: RawServer) -> None:
    client = connect(model="adapter", transport="sglang_generate")
    results = client.score_many([PROMPT] * 5)
    assert all(isinstance(result, tito.BadRequestError) for result in results)
    assert (sglang.hits, len(sglang.lookups)) == (5, 1)
    assert {request.json["lora_path"] for request in sglang.requests} == {"adapter"}


def test_a_body_alone_cannot_know() -> None:
    with pytest.raises(ValueError, match=r"extra_body=\{'lora_path': name\}"):
        encode_request("sglang_generate", model="m", prompt_ids=PROMPT)
    body = encode_request("sglang_generate", model="m", prompt_ids=PROMPT, extra_body={"lora_path": "a"})
    assert json.loads(body)["lora_path"] == "a"
