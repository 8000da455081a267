"""``POST /v1/chat/completions`` of SGLang with ``input_ids``, which takes the place of the template.

Facts: SGLang 0.5.23, ``srt/entrypoints/openai/protocol.py`` and ``serving_chat.py``.
"""

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
from .defaults import TOP_K_OFF, with_neutral
from .dynamo import PLACEHOLDER
from .sglang import headers

if TYPE_CHECKING:
    from .call import Call

__all__ = ["PATH", "draft", "headers"]

PATH = "/v1/chat/completions"
_START = "routed_experts_prompt_start"


def draft(call: Call, *, send_start: bool = True) -> Draft:
    """The ids beside a placeholder message; the answer's ids, log-probabilities and routing are in ``meta_info``."""
    refuse_features(call, "sglang_chat")
    refuse_streams(call, "sglang_chat", "the server streams no ids on this route; use transport='sglang_generate'")
    if call.model is None:
        raise ValueError("the chat route needs a model")
    params, extra = dict(call.sampling_params), dict(call.extra_body or {})
    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    asked = take({_START: call.routed_experts_prompt_start}, params, extra, key=_START)
    own = extra.pop("routed_experts_start_len", None)
    start = checked_start(asked if asked is not None else own, call.prompt_len)
    given = {**params, **extra}
    refuse(given, "input_ids", why="the prompt is prompt_ids")
    refuse(given, "prompt_logprobs", why="this route scores no prompt; use transport='sglang_generate'")
    take_stream(call, given)
    logprobs = take_logprobs(given)
    if logprobs < 0:
        raise ValueError(f"logprobs is {logprobs}; it must be at least 0")

    fields = {key: value for key, value in given.items() if value is not None}
    fields = with_neutral(fields, call, top_k=TOP_K_OFF)
    members: dict[str, Any] = {
        "model": call.model,
        "messages": fields.pop("messages", [dict(PLACEHOLDER)]),
        **fields,
        "logprobs": bool(logprobs),
        "return_token_ids": True,
        "return_prompt_token_ids": True,
        "return_meta_info": True,
        # A parser for reasoning or tools has no use, and may change the finish reason.
        "separate_reasoning": False,
        "tool_choice": "none",
    }
    if logprobs > 1:
        members["top_logprobs"] = logprobs
    if call.routed_experts or start:
        members["return_routed_experts"] = True
    if start and send_start:
        members["routed_experts_start_len"] = wire_start(call, start)
    if ids := stop_ids(call, fields.get("stop_token_ids")):
        members["stop_token_ids"] = ids
    named = {
        "cache_salt": None if salt is None else checked_salt(salt),
        "priority": None if priority is None else checked_integer("priority", priority),
        "session_id": call.session_id,
        "data_parallel_rank": call.data_parallel_rank,
        "rid": call.request_id,
    }
    members.update({key: value for key, value in named.items() if value is not None})
    return Draft(members, ("input_ids",), logprobs, start, fields.get("n", 1), members["model"])
