"""``POST /v1/completions`` of vLLM with ``return_token_ids``: the prompt is a list of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call import (
    Draft,
    checked_integer,
    checked_salt,
    checked_start,
    refuse,
    refuse_features,
    refuse_streams,
    stop_ids,
    take,
    take_logprobs,
    take_stream,
    wire_start,
)
from .defaults import TOP_K_ALL, with_neutral
from .vllm_generate import headers

if TYPE_CHECKING:
    from .call import Call

__all__ = ["PATH", "draft", "headers"]

PATH = "/v1/completions"
_START = "routed_experts_prompt_start"


def draft(call: Call, *, send_start: bool = True) -> Draft:
    """Log-probabilities come as a flat list, beside texts that name the ids (``return_tokens_as_token_ids``)."""
    refuse_features(call, "vllm_completions")
    refuse_streams(call, "vllm_completions", "its streams bring no routed experts; use transport='vllm_generate'")
    if call.model is None:
        raise ValueError("the completions route needs a model")
    params, extra = dict(call.sampling_params), dict(call.extra_body or {})
    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    start = checked_start(take({_START: call.routed_experts_prompt_start}, params, extra, key=_START), call.prompt_len)
    given = {**params, **extra}
    refuse(given, "prompt", why="the prompt is prompt_ids")
    refuse(given, "echo", why="the answer would hold the ids of the prompt and the completion in one list")
    take_stream(call, given)
    logprobs = take_logprobs(given)
    if not 0 <= logprobs <= 1:
        raise ValueError(
            f"logprobs is {logprobs}; vllm_completions gives 0 or 1: it names alternatives by their text; use "
            "transport='vllm_generate'"
        )
    fields = with_neutral({key: value for key, value in given.items() if value is not None}, call, top_k=TOP_K_ALL)
    members: dict[str, Any] = {
        "model": call.model,
        **fields,
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if logprobs:
        members["logprobs"] = logprobs
    if ids := stop_ids(call, fields.get("stop_token_ids")):
        members["stop_token_ids"] = ids
    if salt is not None:
        members["cache_salt"] = checked_salt(salt)
    if priority is not None:
        members["priority"] = checked_integer("priority", priority)
    if start and send_start:
        members[_START] = wire_start(call, start)
    return Draft(members, ("prompt",), logprobs, start, fields.get("n", 1), members["model"])
