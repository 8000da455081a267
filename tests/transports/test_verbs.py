"""Both clients offer the same verbs, with the same keywords."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest

import dynamo_tito as tito
from support.driver import Driver
from support.raw_server import RawServer, reply

Connect = Callable[..., Driver]

SHARED = {
    "cache_salt": None,
    "priority": None,
    "extra_body": None,
    "session_id": None,
    "data_parallel_rank": None,
    "extra_headers": None,
    "deadline": None,
    "transport": None,
}
STREAM = {
    **SHARED,
    "sampling_params": None,
    "stop_token_ids": (),
    "routed_experts_prompt_start": None,
    "features": None,
    "artifact": None,
    "request_id": None,
    "on_interrupt": "raise",
}
GENERATE = {**STREAM, "stream": None}
SCORE_MANY = {**SHARED, "top_k": 0, "temperature": 1.0}
SCORE = {**SCORE_MANY, "start": 0, "request_id": None}


def verbs(client: type) -> set[str]:
    return {name for name, value in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


def test_the_verbs_are_the_same() -> None:
    assert verbs(tito.AsyncTitoClient) - {"aclose"} == verbs(tito.TitoClient) - {"close"}


@pytest.mark.parametrize("client", [tito.AsyncTitoClient, tito.TitoClient])
@pytest.mark.parametrize(
    ("verb", "defaults"),
    [
        ("generate", GENERATE),
        ("stream", STREAM),
        ("score", SCORE),
        ("score_many", {**SCORE_MANY, "start": 0, "concurrency": 32, "progress": None}),
    ],
)
def test_the_keywords_and_their_defaults_are_visible(client: Any, verb: str, defaults: dict[str, Any]) -> None:
    _, data, *knobs = inspect.signature(getattr(client, verb)).parameters.values()
    assert data.default is inspect.Parameter.empty
    assert all(knob.kind is inspect.Parameter.KEYWORD_ONLY for knob in knobs)
    assert {knob.name: knob.default for knob in knobs} == defaults


def test_the_keywords_of_encode_request() -> None:
    knobs = inspect.signature(tito.encode_request).parameters
    not_shared = ("extra_headers", "deadline", "transport", "on_interrupt", "stream")
    shared = {name: GENERATE[name] for name in GENERATE if name not in not_shared}
    assert {name: knobs[name].default for name in shared} == shared
    with pytest.raises(TypeError, match=r"^encode_request\(\) got an unexpected keyword argument 'n'$"):
        tito.encode_request("vllm_generate", model="m", prompt_ids=[1], n=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("verb", ["generate", "score", "score_many"])
def test_an_unknown_keyword_is_refused_before_anything_is_sent(connect: Connect, server: RawServer, verb: str) -> None:
    driver = connect()
    owner = type(driver.client).__name__
    with pytest.raises(TypeError, match=rf"^{owner}\.{verb}\(\) got an unexpected keyword argument 'temprature'$"):
        getattr(driver, verb)([[1]] if verb == "score_many" else [1], temprature=0.5)
    assert server.hits == 0


def test_tokenize_and_detokenize(connect: Connect, server: RawServer) -> None:
    server.play(
        reply(200, {"tokens": [1, 2]}), reply(200, {"prompt": "ab"}), reply(200, {"text": "ab"}), reply(200, {})
    )
    driver = connect()
    messages = [{"role": "user", "content": "ab"}]

    def run(verb: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(driver.client, verb)(*arguments, **options)
        return driver.run(result) if inspect.isawaitable(result) else result  # type: ignore[arg-type]

    assert run("tokenize", messages, add_generation_prompt=False, tools=[]) == [1, 2]
    assert run("detokenize", [1, 2]) == "ab"
    assert run("detokenize", [1, 2]) == "ab"
    with pytest.raises(tito.MissingFieldError, match="the answer holds no tokens"):
        run("tokenize", messages)
    first, second = (json.loads(request.body) for request in server.requests[:2])
    assert first == {"model": "tito-model", "messages": messages, "add_generation_prompt": False}
    assert second == {"model": "tito-model", "tokens": [1, 2]}


def test_a_fleet_is_asynchronous() -> None:
    with tito.TitoClient("http://h", model="m") as client, pytest.raises(NotImplementedError, match="AsyncTitoClient"):
        client.fleet()
    assert inspect.iscoroutinefunction(tito.AsyncTitoClient.fleet)
