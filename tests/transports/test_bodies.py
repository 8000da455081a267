"""Request bodies, field by field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dynamo_tito._config import RendererTransport
from dynamo_tito._requests import DIALECTS, encode_request

IDS = [1, 2, 3, 4, 5]
OURS = ["engine_data", "detailed_finish_reason"]
TRANSPORTS: tuple[RendererTransport, ...] = (
    "vllm_generate",
    "dynamo_chat",
    "dynamo_completions",
    "prime_chat_tokens",
    "sglang_generate",
)
DYNAMO: tuple[RendererTransport, ...] = ("dynamo_chat", "dynamo_completions")
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
#: How each server spells "all tokens".
ALL = {"vllm_generate": 0, "prime_chat_tokens": 0, "dynamo_chat": -1, "dynamo_completions": -1, "sglang_generate": -1}


def body(transport: RendererTransport, prompt_ids: Any = None, **arguments: Any) -> dict[str, Any]:
    arguments = {"model": None if transport == "sglang_generate" else "m", **arguments}
    encoded = encode_request(transport, prompt_ids=IDS if prompt_ids is None else prompt_ids, **arguments)
    document: dict[str, Any] = json.loads(encoded)
    return document


def test_there_is_no_other_transport() -> None:
    assert set(DIALECTS) == {*TRANSPORTS, "vllm_completions", "sglang_chat"}
    with pytest.raises(ValueError, match="vllm_chat takes no token ids"):
        body("vllm_chat")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ plain bodies


def test_vllm_generate() -> None:
    assert body("vllm_generate", sampling_params={"max_tokens": 8, "temperature": 0.5}) == {
        "model": "m",
        "token_ids": IDS,
        "sampling_params": NEUTRAL
        | {"max_tokens": 8, "temperature": 0.5, "top_k": 0, "logprobs": 1, "skip_special_tokens": False},
    }


def test_vllm_generate_with_everything() -> None:
    features = {"mm_hashes": {"image": ["h"]}, "mm_placeholders": {"image": [{"offset": 1, "length": 2}]}}
    assert body(
        "vllm_generate",
        sampling_params={"logprobs": 3, "skip_special_tokens": True, "stop_token_ids": [7], "top_p": None},
        stop_token_ids=[7, 9],
        cache_salt="step-7",
        priority=-3,
        routed_experts_prompt_start=2,
        features=features,
        extra_body={"return_token_ids": True, "sampling_params": {"seed": 1}},
    ) == {
        "model": "m",
        "token_ids": IDS,
        "sampling_params": NEUTRAL
        | {
            "logprobs": 3,
            "skip_special_tokens": True,
            "stop_token_ids": [7, 9],
            "top_k": 0,
            "seed": 1,
            "routed_experts_prompt_start": 2,
        },
        "cache_salt": "step-7",
        "priority": -3,
        "features": features,
        "return_token_ids": True,
    }


def test_vllm_generate_needs_no_model() -> None:
    assert "model" not in body("vllm_generate", model=None)


def test_dynamo_chat() -> None:
    assert body("dynamo_chat", sampling_params={"max_tokens": 8, "temperature": 0.5}) == NEUTRAL | {
        "top_k": -1,
        "model": "m",
        "messages": [{"role": "user", "content": "(token-in mode)"}],
        "stream": False,
        "temperature": 0.5,
        "max_completion_tokens": 8,
        "logprobs": True,
        "nvext": {"extra_fields": OURS, "token_data": IDS},
    }


def test_dynamo_completions() -> None:
    assert body(
        "dynamo_completions", sampling_params={"max_tokens": 8, "temperature": 0.5, "logprobs": 2}
    ) == NEUTRAL | {
        "top_k": -1,
        "model": "m",
        "prompt": IDS,
        "stream": False,
        "temperature": 0.5,
        "max_tokens": 8,
        "logprobs": 2,
        "nvext": {"extra_fields": OURS},
    }


def test_prime_chat_tokens() -> None:
    messages = [{"role": "user", "content": "hello"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert body(
        "prime_chat_tokens",
        sampling_params={"max_tokens": 8, "logprobs": 4, "top_p": None},
        cache_salt="s",
        priority=1,
        routed_experts_prompt_start=3,
        stop_token_ids=(9,),
        extra_body={"messages": messages, "tools": tools},
    ) == NEUTRAL | {
        "top_k": 0,
        "model": "m",
        "messages": messages,
        "tools": tools,
        "tokens": IDS,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 4,
        "return_token_ids": True,
        "cache_salt": "s",
        "priority": 1,
        "routed_experts_prompt_start": 3,
        "stop_token_ids": [9],
    }


def test_prime_chat_tokens_has_a_message_even_if_none_is_given() -> None:
    assert body("prime_chat_tokens")["messages"] == [{"role": "user", "content": "(token-in mode)"}]


def test_sglang_generate() -> None:
    assert body(
        "sglang_generate",
        sampling_params={"max_tokens": 8, "min_tokens": 2, "seed": 3, "temperature": 0.5, "top_p": None, "logprobs": 2},
        stop_token_ids=(9,),
        cache_salt="s",
        priority=1,
        routed_experts_prompt_start=2,
        session_id="conversation",
        data_parallel_rank=3,
        request_id="r1",
        extra_body={"lora_path": "a"},
    ) == {
        "input_ids": IDS,
        "sampling_params": NEUTRAL
        | {
            "top_k": -1,
            "max_new_tokens": 8,
            "min_new_tokens": 2,
            "sampling_seed": 3,
            "temperature": 0.5,
            "stop_token_ids": [9],
        },
        "return_logprob": True,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": False,
        "stream": False,
        "return_routed_experts": True,
        "routed_experts_start_len": 2,
        "cache_salt": "s",
        "priority": 1,
        "session_id": "conversation",
        "routed_dp_rank": 3,
        "rid": "r1",
        "lora_path": "a",
    }


def test_sglang_is_asked_for_routed_experts_only_if_they_are_wanted() -> None:
    assert "return_routed_experts" not in body("sglang_generate")
    assert body("sglang_generate", return_routed_experts=True)["return_routed_experts"] is True


def test_vllm_completions() -> None:
    asked = body("vllm_completions", sampling_params={"max_tokens": 8}, routed_experts_prompt_start=2, priority=3)
    assert asked == {
        "model": "m",
        "max_tokens": 8,
        **NEUTRAL,
        "top_k": 0,
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "logprobs": 1,
        "priority": 3,
        "routed_experts_prompt_start": 2,
        "prompt": IDS,
    }
    for refused in ({"logprobs": 2}, {"echo": True}):
        with pytest.raises(ValueError, match="|".join(refused)):
            body("vllm_completions", sampling_params=refused)
    with pytest.raises(ValueError, match="cannot be streamed"):
        body("vllm_completions", stream=True)


def test_sglang_chat() -> None:
    asked = body("sglang_chat", sampling_params={"max_tokens": 8, "logprobs": 3}, routed_experts_prompt_start=2)
    assert asked == {
        "model": "m",
        "messages": [{"role": "user", "content": "(token-in mode)"}],
        "max_tokens": 8,
        **NEUTRAL,
        "top_k": -1,
        "logprobs": True,
        "top_logprobs": 3,
        "return_token_ids": True,
        "return_prompt_token_ids": True,
        "return_meta_info": True,
        "separate_reasoning": False,
        "tool_choice": "none",
        "return_routed_experts": True,
        "routed_experts_start_len": 2,
        "input_ids": IDS,
    }
    with pytest.raises(ValueError, match="cannot be streamed"):
        body("sglang_chat", stream=True)
    with pytest.raises(ValueError, match="scores no prompt"):
        body("sglang_chat", sampling_params={"prompt_logprobs": 0})


# ------------------------------------------------------------------------------------------------ nvext


@pytest.mark.parametrize("transport", DYNAMO)
def test_the_callers_nvext_is_merged_and_not_overwritten(transport: RendererTransport) -> None:
    document = body(
        transport,
        sampling_params={
            "nvext": {
                "extra_fields": ["timing", "engine_data"],
                "agent_hints": {"osl": 10, "priority": 1},
                "dp_rank": 2,
                "cache_salt": "in-nvext",
            }
        },
        extra_body={"nvext": {"extra_fields": ["worker_id", "timing"], "agent_hints": {"strict_priority": 2}}},
        cache_salt="argument",
        priority=7,
    )
    nvext = document["nvext"]
    nvext.pop("token_data", None)
    assert nvext == {
        "extra_fields": ["timing", "engine_data", "worker_id", "detailed_finish_reason"],
        "agent_hints": {"osl": 10, "strict_priority": 2, "priority": 7},
        "dp_rank": 2,
        "cache_salt": "argument",
    }


@pytest.mark.parametrize("transport", DYNAMO)
@pytest.mark.parametrize("asked", [["routed_experts"], ["routed_experts", "timing", "routed_experts"], None, []])
def test_the_blob_is_never_asked_for_twice(transport: RendererTransport, asked: list[str] | None) -> None:
    fields = body(transport, extra_body={"nvext": {"extra_fields": asked}})["nvext"]["extra_fields"]
    assert fields == [name for name in dict.fromkeys(asked or []) if name != "routed_experts"] + OURS


@pytest.mark.parametrize("transport", DYNAMO)
@pytest.mark.parametrize(
    "arguments",
    [
        {"cache_salt": "s", "priority": 5},
        {"sampling_params": {"cache_salt": "s", "priority": 5}},
        {"extra_body": {"cache_salt": "s", "priority": 5}},
        {"cache_salt": "s", "priority": 5, "sampling_params": {"cache_salt": "loses", "priority": 9}},
        {"sampling_params": {"cache_salt": "s", "priority": 5}, "extra_body": {"nvext": {"cache_salt": "loses"}}},
    ],
)
def test_salt_and_priority_never_reach_the_top_level_of_dynamo(
    transport: RendererTransport, arguments: dict[str, Any]
) -> None:
    document = body(transport, **arguments)
    assert "cache_salt" not in document
    assert "priority" not in document
    assert document["nvext"]["cache_salt"] == "s"
    assert document["nvext"]["agent_hints"] == {"priority": 5}


@pytest.mark.parametrize("transport", DYNAMO)
def test_no_hints_unless_there_is_something_to_hint(transport: RendererTransport) -> None:
    assert set(body(transport)["nvext"]) <= {"extra_fields", "token_data"}


@pytest.mark.parametrize("transport", DYNAMO)
def test_dynamo_gets_every_other_field_but_what_it_refuses(transport: RendererTransport) -> None:
    document = body(
        transport,
        sampling_params={
            "return_token_ids": True,
            "spaces_between_special_tokens": False,
            "tools": [{}],
            "tool_choice": "auto",
            "top_k": 5,
            "seed": None,
            "some_future_field": {"a": 1},
            "stop_token_ids": [3],
        },
        extra_body={"allowed_token_ids": [1], "top_k": 6, "stream": False},
        stop_token_ids=(3, 4),
    )
    assert document["top_k"] == 6
    assert document["some_future_field"] == {"a": 1}
    assert document["allowed_token_ids"] == [1]
    assert document["stop_token_ids"] == [3, 4]
    assert document["stream"] is False
    unwanted = {"return_token_ids", "spaces_between_special_tokens", "tools", "tool_choice", "seed"}
    assert not unwanted & set(document)


def test_the_budget_is_spelled_as_the_route_spells_it() -> None:
    assert body("dynamo_chat", sampling_params={"max_tokens": 8, "max_completion_tokens": 9})[
        "max_completion_tokens"
    ] == (9)
    completions = body("dynamo_completions", sampling_params={"max_completion_tokens": 9})
    assert completions["max_tokens"] == 9
    assert "max_completion_tokens" not in completions


# ------------------------------------------------------------------------------------------------ sampling defaults


def sampling(transport: RendererTransport, **arguments: Any) -> dict[str, Any]:
    """The sampling parameters of a body, wherever the route has them."""
    document = body(transport, **arguments)
    params: dict[str, Any] = document.get("sampling_params", document)
    return {name: params[name] for name in (*NEUTRAL, "top_k") if name in params}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_the_caller_leaves_open_is_neutral(transport: RendererTransport) -> None:
    assert sampling(transport) == NEUTRAL | {"top_k": ALL[transport]}
    assert sampling(transport, sampling_params=dict.fromkeys((*NEUTRAL, "top_k"))) == sampling(transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_defaults_of_the_model_are_used_on_request(transport: RendererTransport) -> None:
    given = {"temperature": 0.5, "seed": 3}
    assert sampling(transport, sampling_params=given, sampling_defaults="model") == {"temperature": 0.5}
    with pytest.raises(ValueError, match="sampling_defaults must be one of neutral, model, not 'none'"):
        body(transport, sampling_defaults="none")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("place", ["sampling_params", "extra_body"])
def test_the_values_of_the_caller_win(transport: RendererTransport, place: str) -> None:
    given = {"temperature": 0.0, "top_p": 0.5, "top_k": 9, "min_p": 0.25, "repetition_penalty": 1.5}
    given |= {"presence_penalty": -0.5, "frequency_penalty": 0.5}
    nested = place == "extra_body" and transport in ("vllm_generate", "sglang_generate")
    arguments: dict[str, Any] = {place: {"sampling_params": given} if nested else given}
    assert sampling(transport, **arguments) == given


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_greedy_stays_greedy(transport: RendererTransport) -> None:
    assert sampling(transport, sampling_params={"temperature": 0})["temperature"] == 0


@pytest.mark.parametrize("transport", DYNAMO)
def test_greed_sampling_is_refused_because_it_is_not_greedy(transport: RendererTransport) -> None:
    with pytest.raises(ValueError, match=r"nvext\.greed_sampling cannot be given .* give temperature 0"):
        body(transport, extra_body={"nvext": {"greed_sampling": True}})
    assert body(transport, extra_body={"nvext": {"greed_sampling": False}})["nvext"]["greed_sampling"] is False


# ------------------------------------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize(
    ("given", "chat", "generate"),
    [
        ({}, {"logprobs": True}, 1),
        ({"logprobs": 1}, {"logprobs": True}, 1),
        ({"logprobs": True}, {"logprobs": True}, 1),
        ({"logprobs": 5}, {"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": 20}, {"logprobs": True, "top_logprobs": 20}, 20),
        ({"logprobs": np.int64(2)}, {"logprobs": True, "top_logprobs": 2}, 2),
        ({"logprobs": 0}, {}, None),
        ({"logprobs": None}, {}, None),
        ({"logprobs": False}, {}, None),
    ],
)
def test_logprobs(given: dict[str, Any], chat: dict[str, Any], generate: int | None) -> None:
    for transport in ("dynamo_chat", "prime_chat_tokens"):
        document = body(transport, sampling_params=given)
        assert {key: document[key] for key in ("logprobs", "top_logprobs") if key in document} == chat
    if not generate or generate <= 5:
        assert body("dynamo_completions", sampling_params=given).get("logprobs") == generate
    assert body("vllm_generate", sampling_params=given)["sampling_params"].get("logprobs") == generate
    sglang = body("sglang_generate", sampling_params=given)
    assert sglang["return_logprob"] is (generate is not None)
    assert sglang["top_logprobs_num"] == (generate if generate and generate > 1 else 0)
    assert "logprobs" not in sglang["sampling_params"]


def test_openai_spelling_of_logprobs() -> None:
    document = body("dynamo_chat", sampling_params={"logprobs": True, "top_logprobs": 3})
    assert (document["logprobs"], document["top_logprobs"]) == (True, 3)


def test_the_whole_vocabulary_can_be_asked_of_vllm() -> None:
    assert body("vllm_generate", sampling_params={"logprobs": -1})["sampling_params"]["logprobs"] == -1


@pytest.mark.parametrize(("transport", "most"), [("dynamo_chat", 20), ("dynamo_completions", 5)])
def test_more_logprobs_than_dynamo_gives(transport: RendererTransport, most: int) -> None:
    body(transport, sampling_params={"logprobs": most})
    for count in (most + 1, -1):
        with pytest.raises(ValueError, match=rf"logprobs is {count}; {transport} gives 0 to {most}"):
            body(transport, sampling_params={"logprobs": count})


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("wrong", [1.0, "1"])
def test_logprobs_are_counted(transport: RendererTransport, wrong: Any) -> None:
    with pytest.raises(TypeError, match="logprobs must be an integer"):
        body(transport, sampling_params={"logprobs": wrong})


# ------------------------------------------------------------------------------------------------ routed experts


@pytest.mark.parametrize(
    ("transport", "at"),
    [
        ("vllm_generate", ("sampling_params", "routed_experts_prompt_start")),
        ("dynamo_chat", ("nvext", "routed_experts_prompt_start")),
        ("dynamo_completions", ("nvext", "routed_experts_prompt_start")),
        ("prime_chat_tokens", ("routed_experts_prompt_start",)),
        ("sglang_generate", ("routed_experts_start_len",)),
    ],
)
@pytest.mark.parametrize("start", [0, 1, 4, 5, None])
def test_prompt_start(transport: RendererTransport, at: tuple[str, ...], start: int | None) -> None:
    for given in ({"routed_experts_prompt_start": start}, {"sampling_params": {"routed_experts_prompt_start": start}}):
        document = body(transport, **given)
        for key in at[:-1]:
            document = document[key]
        # A server need not take a start right behind the prompt.
        assert document.get(at[-1]) == (min(start, 4) if start else None)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("start", "error"), [(6, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_prompt_start_outside_the_prompt(transport: RendererTransport, start: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="routed_experts_prompt_start"):
        body(transport, routed_experts_prompt_start=start)
