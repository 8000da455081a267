"""``POST /v1/chat/completions/tokens``: prime-rl's server, a vLLM chat route that takes the prompt as ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call import (
    Draft,
    checked_integer,
    checked_salt,
    checked_start,
    refuse,
    refuse_artifact,
    refuse_features,
    refuse_unstreamed,
    stop_ids,
    take,
    take_logprobs,
    take_stream,
    wire_start,
)
from .defaults import TOP_K_ALL, with_neutral
from .dynamo import PLACEHOLDER
from .vllm_generate import headers

if TYPE_CHECKING:
    from .call import Call

__all__ = ["PATH", "draft", "headers"]

PATH = "/v1/chat/completions/tokens"
_START = "routed_experts_prompt_start"


def draft(call: Call, *, send_start: bool = True) -> Draft:
    """``tokens`` is the prompt. The server parses the answer with ``messages`` and ``tools``, from ``extra_body``."""
    refuse_artifact(call, "prime_chat_tokens")
    refuse_features(call, "prime_chat_tokens")
    if call.model is None:
        raise ValueError("the chat route needs a model")
    params, extra = dict(call.sampling_params), dict(call.extra_body or {})
    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    asked = take({_START: call.routed_experts_prompt_start}, params, extra, key=_START)
    start = checked_start(asked, call.prompt_len)
    given = {**params, **extra}
    refuse(given, "tokens", why="the prompt is prompt_ids")
    stream = take_stream(call, given)
    refuse_unstreamed(
        call, "prime_chat_tokens", prompt_logprobs=given.get("prompt_logprobs"), routed_experts_prompt_start=asked
    )
    logprobs = take_logprobs(given)
    if logprobs < 0:
        raise ValueError(f"logprobs is {logprobs}; it must be at least 0")

    fields = {key: value for key, value in given.items() if value is not None}
    fields = with_neutral(fields, call, top_k=TOP_K_ALL)
    members: dict[str, Any] = {
        "model": call.model,
        "messages": fields.pop("messages", [dict(PLACEHOLDER)]),
        **fields,
        **(stream if call.stream else {}),
        "return_token_ids": True,
    }
    if logprobs:
        members["logprobs"] = True
    if logprobs > 1:
        members["top_logprobs"] = logprobs
    elif logprobs and call.stream:
        # vLLM below 0.32 streams log-probabilities only where this is given.
        members["top_logprobs"] = 0
    if ids := stop_ids(call, fields.get("stop_token_ids")):
        members["stop_token_ids"] = ids
    if salt is not None:
        members["cache_salt"] = checked_salt(salt)
    if priority is not None:
        members["priority"] = checked_integer("priority", priority)
    if start and send_start:
        members[_START] = wire_start(call, start)
    return Draft(members, ("tokens",), logprobs, start, fields.get("n", 1), members["model"])
