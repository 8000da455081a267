"""The length of a prompt is checked before it is sent. The limit is fetched once, and a failed fetch fails no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dynamo_tito._client import AsyncTitoClient, caller
from dynamo_tito._config import RendererTransport
from dynamo_tito._errors import BadRequestError, OverlongPromptError
from support.driver import PROMPT, Driver
from support.raw_server import Answer, Pause, RawServer, Reset, Stall, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]


def card(**fields: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "other", "max_model_len": 1}, {"id": "tito-model", **fields}]}


@pytest.fixture
def client(connect: Connect, server: RawServer, recorded: Recorded) -> Driver:
    server.play(reply(200, recorded("generate_basic")))
    return connect(preflight=True)


@pytest.mark.parametrize("key", ["max_model_len", "context_window"])
def test_overlong_prompts_are_not_sent(client: Driver, server: RawServer, key: str) -> None:
    server.models = reply(200, card(**{key: 4}))
    with pytest.raises(OverlongPromptError) as caught:
        client.generate()
    assert (caught.value.prompt_len, caught.value.max_prompt_len) == (5, 3)
    assert server.hits == 0


#: Tokens of the context that each server leaves to the completion.
RESERVED: dict[RendererTransport, int] = {
    "vllm_generate": 1, "dynamo_chat": 1, "dynamo_completions": 1, "prime_chat_tokens": 1, "sglang_generate": 7,
}  # fmt: skip


@pytest.mark.parametrize("transport", RESERVED)
@pytest.mark.parametrize("call", ["generate", "score"])
def test_a_token_has_to_be_sampled(
    connect: Connect, server: RawServer, transport: RendererTransport, call: str
) -> None:
    server.models = reply(200, card(max_model_len=20))
    server.play(reply(400, {"error": "seen enough"}))
    client = connect(preflight=True, transport=transport)
    fits = 20 - RESERVED[transport]
    with pytest.raises(BadRequestError):
        getattr(client, call)([1] * fits)
    with pytest.raises(OverlongPromptError) as caught:
        getattr(client, call)([1] * (fits + 1))
    assert (caught.value.prompt_len, caught.value.max_prompt_len) == (fits + 1, fits)
    assert server.hits == 1


def test_an_adapter_has_the_context_of_its_parent(connect: Connect, server: RawServer) -> None:
    adapter = {"id": "adapter", "root": "/lora/1", "parent": "base", "max_model_len": None}
    server.models = reply(200, {"data": [adapter, {"id": "base", "max_model_len": 5, "parent": None}]})
    with pytest.raises(OverlongPromptError) as caught:
        connect(preflight=True, model="adapter").generate()
    assert caught.value.max_prompt_len == 4
    server.models = reply(200, {"data": [adapter | {"max_model_len": 3}, {"id": "base", "max_model_len": 5}]})
    with pytest.raises(OverlongPromptError) as caught:
        connect(preflight=True, model="adapter").generate()
    assert caught.value.max_prompt_len == 2
    assert server.hits == 0


def test_prompts_that_fit_are_sent_and_the_limit_is_fetched_once(client: Driver, server: RawServer) -> None:
    server.models = reply(200, card(max_model_len=6))
    for _ in range(3):
        client.generate()
    assert (server.hits, len(server.lookups)) == (3, 1)
    assert server.lookups[0].path == "/v1/models"
    with pytest.raises(OverlongPromptError):
        client.generate([1] * 6)
    assert (server.hits, len(server.lookups)) == (3, 1)


@pytest.mark.parametrize("fields", [{}, {"max_model_len": None}, {"context_window": 0}, {"max_model_len": "4"}])
def test_a_server_without_a_limit(client: Driver, server: RawServer, fields: dict[str, Any]) -> None:
    server.models = reply(200, card(**fields))
    for _ in range(2):
        client.generate()
    assert (server.hits, len(server.lookups)) == (2, 1)


FAILURES: dict[str, Answer] = {
    "status": reply(500, b"broken"),
    "no JSON": reply(200, b"<html>"),
    "no list": reply(200, b"[]"),
    "no cards": reply(200, b'{"data":[1,null,{"max_model_len":3}]}'),
    "another model": reply(200, {"data": [{"id": "other", "max_model_len": 3}]}),
    "reset": [Reset()],
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_fetch_is_repeated_later(
    client: Driver, server: RawServer, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models = FAILURES[failure]
    for _ in range(3):
        client.generate()
    assert server.hits == 3
    # Sending a GET again is harmless, and aiohttp does so by itself.
    asked = len(server.lookups)
    assert asked == 1 or (asked == 2 and failure == "reset")
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 31)
    server.models = reply(200, card(max_model_len=4))
    with pytest.raises(OverlongPromptError):
        client.generate(deadline=float("inf"))
    assert len(server.lookups) == asked + 1


def test_a_fetch_that_is_never_answered(connect: Connect, server: RawServer, recorded: Recorded) -> None:

    server.play(reply(200, recorded("generate_basic")))
    server.models = [Stall()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caller, "PREFLIGHT_TIMEOUT", 0.2)
        assert len(connect(preflight=True).generate(deadline=20.0).token_ids) == 4


def test_many_calls_at_once_fetch_once(client: Driver, server: RawServer) -> None:
    server.models = [Pause(0.2), *reply(200, card(max_model_len=100))]
    calls = 20
    if isinstance(client.client, AsyncTitoClient):
        client._runner.run(_together(client.client, calls))
    else:
        with ThreadPoolExecutor(calls) as threads:
            list(threads.map(lambda _: client.generate(), range(calls)))
    assert (server.hits, len(server.lookups)) == (calls, 1)


async def _together(client: AsyncTitoClient, calls: int) -> None:
    await asyncio.gather(*(client.generate(PROMPT) for _ in range(calls)))


def test_the_model_of_the_call_counts(client: Driver, server: RawServer) -> None:
    server.models = reply(200, card(max_model_len=100))
    with pytest.raises(OverlongPromptError):
        client.generate(extra_body={"model": "other"})
    assert server.hits == 0


def test_the_only_model_is_used_if_none_is_named(connect: Connect, server: RawServer) -> None:
    server.models = reply(200, {"data": [{"id": "the-one", "max_model_len": 4}]})
    with pytest.raises(OverlongPromptError):
        connect(preflight=True, model=None).generate()
    adapter = {"id": "adapter", "parent": "the-one", "max_model_len": None}
    server.models = reply(200, {"data": [{"id": "the-one", "max_model_len": 4}, adapter]})
    with pytest.raises(OverlongPromptError):
        connect(preflight=True, model=None).generate()
    assert server.hits == 0


def test_wrong_arguments_fetch_nothing(client: Driver, server: RawServer) -> None:
    with pytest.raises(ValueError, match="cache_salt"):
        client.generate(cache_salt="a/b")
    assert not server.lookups
