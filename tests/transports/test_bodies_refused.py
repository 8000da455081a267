"""Requests that are refused unsent, and prompts and numbers at their limits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dynamo_tito._config import RendererTransport
from dynamo_tito._requests import encode_request

from .test_bodies import DYNAMO, TRANSPORTS, body


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("salt", ["", "x" * 129, "a@b", "a/b", "a\\b", "a\0b"])
def test_a_salt_that_servers_refuse(transport: RendererTransport, salt: str) -> None:
    for arguments in ({"cache_salt": salt}, {"sampling_params": {"cache_salt": salt}}):
        with pytest.raises(ValueError, match="cache_salt must"):
            body(transport, **arguments)


def test_a_salt_that_servers_take() -> None:
    assert body("vllm_generate", cache_salt="x" * 128)["cache_salt"] == "x" * 128


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("priority", [1.5, True, "1"])
def test_priority_is_an_integer(transport: RendererTransport, priority: Any) -> None:
    with pytest.raises(TypeError, match="priority must be an integer"):
        body(transport, priority=priority)


@pytest.mark.parametrize("transport", DYNAMO)
def test_several_samples_on_dynamo(transport: RendererTransport) -> None:
    with pytest.raises(ValueError, match="n must be 1"):
        body(transport, sampling_params={"n": 2})
    assert body(transport, sampling_params={"n": 1})["n"] == 1


@pytest.mark.parametrize("transport", DYNAMO)
@pytest.mark.parametrize("where", ["sampling_params", "extra_body"])
def test_logit_bias_on_dynamo(transport: RendererTransport, where: str) -> None:
    with pytest.raises(ValueError, match="logit_bias cannot be given"):
        body(transport, **{where: {"logit_bias": {"5": 1.0}}})


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_streams(transport: RendererTransport) -> None:
    with pytest.raises(ValueError, match="stream cannot be given here"):
        body(transport, extra_body={"stream": True})


@pytest.mark.parametrize("transport", TRANSPORTS[1:])
def test_features_name_the_transport_that_carries_them(transport: RendererTransport) -> None:
    with pytest.raises(NotImplementedError, match="vllm_generate"):
        body(transport, features={})


@pytest.mark.parametrize(
    ("transport", "members"),
    [
        ("vllm_generate", {"token_ids": [1]}),
        ("vllm_generate", {"content_parts": []}),
        ("dynamo_chat", {"nvext": {"token_data": [1]}}),
        ("dynamo_chat", {"messages": []}),
        ("dynamo_completions", {"prompt": "text"}),
        ("dynamo_completions", {"nvext": {"token_data": [1]}}),
        ("prime_chat_tokens", {"tokens": [1]}),
        ("sglang_generate", {"input_ids": [1]}),
        ("sglang_generate", {"text": "text"}),
    ],
)
def test_another_prompt_beside_the_prompt(transport: RendererTransport, members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be given"):
        body(transport, extra_body=members)


@pytest.mark.parametrize("transport", ["dynamo_chat", "dynamo_completions", "prime_chat_tokens"])
def test_routes_that_need_a_model(transport: RendererTransport) -> None:
    with pytest.raises(ValueError, match="need"):
        body(transport, model=None)


@pytest.mark.parametrize(
    ("nvext", "error"),
    [([], TypeError), ({"extra_fields": "engine_data"}, TypeError), ({"extra_fields": 3}, TypeError)],
)
def test_nvext_of_the_wrong_type(nvext: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="nvext"):
        body("dynamo_chat", extra_body={"nvext": nvext})


# ------------------------------------------------------------------------------------------------ the prompt


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "prompt",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        np.array([1, 2, 3], np.int32),
        np.array([1, 2, 3], np.int64),
        np.array([1, 2, 3], np.uint16),
        np.array([9, 1, 9, 2, 9, 3], np.int32)[1::2],
    ],
    ids=lambda prompt: f"{type(prompt).__name__}-{getattr(prompt, 'dtype', '')}",
)
def test_prompts(transport: RendererTransport, prompt: Any) -> None:
    assert (
        "[1,2,3]"
        in encode_request(transport, model=None if transport == "sglang_generate" else "m", prompt_ids=prompt).decode()
    )


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ([], ValueError),
        (np.array([], np.int32), ValueError),
        ([1, -1], ValueError),
        ([2**31], ValueError),
        (np.array([2**31]), ValueError),
        (np.array([2**63], np.uint64), ValueError),
        (np.array([-1]), ValueError),
        (np.array([[1]]), ValueError),
        (np.array([1.0]), TypeError),
        (np.array([True]), TypeError),
        ([1.0], TypeError),
        (["1"], TypeError),
        ([True], TypeError),
        ("123", TypeError),
        (b"123", TypeError),
        (None, TypeError),
        ({1, 2}, TypeError),
    ],
    ids=repr,
)
def test_what_is_no_prompt(prompt: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_request("vllm_generate", model="m", prompt_ids=prompt)


def test_the_largest_id() -> None:
    assert body("vllm_generate", [0, 2**31 - 1])["token_ids"] == [0, 2**31 - 1]


# ------------------------------------------------------------------------------------------------ what JSON can hold


def test_numbers_and_arrays_of_numpy() -> None:
    params = body("vllm_generate", sampling_params={"temperature": np.float32(0.5), "x": np.arange(2)})[
        "sampling_params"
    ]
    assert (params["temperature"], params["x"]) == (0.5, [0, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        body("vllm_generate", sampling_params={"temperature": value})


def test_objects_that_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a request body"):
        body("vllm_generate", sampling_params={"x": object()})


def test_a_lone_surrogate_does_not_break_the_encoding() -> None:
    assert body("vllm_generate", sampling_params={"stop": "\ud800"})["sampling_params"]["stop"] == "\ud800"


def test_arguments_stay_as_they_were() -> None:
    params = {"logprobs": 2, "nvext": {"extra_fields": ["timing"], "agent_hints": {"osl": 1}}, "max_tokens": 3}
    extra = {"nvext": {"extra_fields": ["worker_id"]}, "sampling_params": {"seed": 1}}
    before = json.dumps([params, extra])
    for transport in TRANSPORTS:
        body(transport, sampling_params=params, extra_body=extra, priority=1, cache_salt="s", stop_token_ids=[1])
    assert json.dumps([params, extra]) == before


@pytest.mark.parametrize("name", ["sampling_params", "extra_body", "features"])
def test_mappings(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a mapping"):
        body("vllm_generate", **{name: [1]})


@pytest.mark.parametrize(("ids", "error"), [([-1], ValueError), ([2**31], ValueError), ([1.5], TypeError)])
def test_stop_ids(ids: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="stop_token_ids"):
        body("vllm_generate", stop_token_ids=ids)


@pytest.mark.parametrize("transport", DYNAMO)
def test_stop_tokens_that_dynamo_would_drop(transport: RendererTransport) -> None:
    """With ``ignore_eos`` these routes forget the caller's stop tokens along with the model's: it would sample on."""
    for arguments in (
        {"stop_token_ids": [7], "sampling_params": {"ignore_eos": True}},
        {"sampling_params": {"ignore_eos": True, "stop_token_ids": [7]}},
        {"sampling_params": {"stop_token_ids": [7]}, "extra_body": {"ignore_eos": True}},
    ):
        with pytest.raises(ValueError, match=f"stop_token_ids cannot be given with ignore_eos on {transport}"):
            body(transport, **arguments)
    assert body(transport, stop_token_ids=[7], sampling_params={"ignore_eos": False})["stop_token_ids"] == [7]
    assert body(transport, sampling_params={"ignore_eos": True})["ignore_eos"] is True


@pytest.mark.parametrize("transport", ["vllm_generate", "sglang_generate"])
def test_stop_tokens_that_others_keep(transport: RendererTransport) -> None:
    sent = body(transport, stop_token_ids=[7], sampling_params={"ignore_eos": True})["sampling_params"]
    assert (sent["ignore_eos"], sent["stop_token_ids"]) == (True, [7])
