"""``POST /generate``: SGLang. Sampling parameters have its own names. All other fields are top level."""

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
from .defaults import TOP_K_OFF, with_neutral

if TYPE_CHECKING:
    from .call import Call

PATH = "/generate"

_ADAPTER = "lora_path"
_START = "routed_experts_prompt_start"
_RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
}


def draft(call: Call, *, send_start: bool = True) -> Draft:
    """Log-probabilities as triples without text, routed experts on request.

    Without ``max_new_tokens`` the server stops after 128 tokens. The body names no model: an adapter is named in
    ``lora_path``; whether the model is one is in the list of the server.
    """
    refuse_artifact(call, "sglang_generate")
    refuse_features(call, "sglang_generate")
    extra = dict(call.extra_body or {})
    refuse(extra, "input_ids", "text", "input_embeds", why="the prompt is prompt_ids")
    stream = take_stream(call, extra)["stream"]
    params = {**call.sampling_params, **(extra.pop("sampling_params", None) or {})}
    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    asked = take({_START: call.routed_experts_prompt_start}, params, extra, key=_START)
    own = extra.pop("routed_experts_start_len", None)
    start = checked_start(asked if asked is not None else own, call.prompt_len)
    logprobs = take_logprobs(params)
    if logprobs < 0:
        raise ValueError(f"logprobs is {logprobs}; it must be at least 0")

    for name, sglang_name in _RENAMED.items():
        if (value := params.pop(name, None)) is not None:
            params.setdefault(sglang_name, value)
    params = {key: value for key, value in params.items() if value is not None}
    params = with_neutral(params, call, top_k=TOP_K_OFF)
    if ids := stop_ids(call, params.get("stop_token_ids")):
        params["stop_token_ids"] = ids

    members: dict[str, Any] = {
        "sampling_params": params,
        "return_logprob": bool(logprobs),
        "top_logprobs_num": logprobs if logprobs > 1 else 0,
        "return_text_in_logprobs": False,
        "stream": stream,
    }
    if call.routed_experts or start:
        members["return_routed_experts"] = True
    if start and send_start:
        members["routed_experts_start_len"] = wire_start(call, start)
    named = {
        "cache_salt": None if salt is None else checked_salt(salt),
        "priority": None if priority is None else checked_integer("priority", priority),
        "session_id": call.session_id,
        "routed_dp_rank": call.data_parallel_rank,
        "rid": call.request_id,
    }
    members.update({key: value for key, value in named.items() if value is not None})
    model = take(extra, {"model": call.model}, key="model")
    asked_for = extra.get(_ADAPTER, model)
    member = None if _ADAPTER in extra or model is None else _ADAPTER
    if not isinstance(asked_for, str | None):
        raise TypeError(f"{_ADAPTER} must be a string or None, not {type(asked_for).__name__}")
    members.update(extra)
    flat = members.get("return_flat_raw_output_top_logprobs") or None
    refuse_unstreamed(call, "sglang_generate", return_flat_raw_output_top_logprobs=flat)
    return Draft(members, ("input_ids",), logprobs, start, params.get("n", 1), asked_for, member)


def headers(_call: Call) -> dict[str, str]:
    """None: session, rank and request id are part of the body."""
    return {}
