"""``POST /inference/v1/generate``: vLLM, prime-rl's server, and Dynamo's frontend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call import (
    Draft,
    checked_integer,
    checked_salt,
    checked_start,
    refuse,
    refuse_artifact,
    refuse_unstreamed,
    stop_ids,
    take,
    take_logprobs,
    take_stream,
    wire_start,
)
from .defaults import TOP_K_ALL, with_neutral

if TYPE_CHECKING:
    from .call import Call

PATH = "/inference/v1/generate"


def draft(call: Call, *, send_start: bool = True) -> Draft:
    """``sampling_params`` as given, neutral values for absent ones, and the options that decoding needs."""
    refuse_artifact(call, "vllm_generate")
    extra = dict(call.extra_body or {})
    refuse(extra, "token_ids", why="the prompt is prompt_ids")
    refuse(extra, "content_parts", why="the server expands them to an unknown number of tokens; pass features")
    stream = take_stream(call, extra)
    params = {**call.sampling_params, **(extra.pop("sampling_params", None) or {})}

    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    features = take({"features": call.features}, extra, key="features")
    argument = {"routed_experts_prompt_start": call.routed_experts_prompt_start}
    start = checked_start(take(argument, params, key="routed_experts_prompt_start"), call.prompt_len)

    logprobs = _take_logprobs(params)
    if logprobs:
        params["logprobs"] = logprobs
    if ids := stop_ids(call, params.get("stop_token_ids")):
        params["stop_token_ids"] = ids
    params.setdefault("skip_special_tokens", False)
    params = with_neutral(params, call, top_k=TOP_K_ALL)
    if start and send_start:
        params["routed_experts_prompt_start"] = wire_start(call, start)

    scores = ("prompt_logprobs", "prompt_logprob_token_ids")
    refuse_unstreamed(call, "vllm_generate", **{name: params.get(name) for name in scores})
    members: dict[str, Any] = stream if call.stream else {}
    if call.model is not None:
        members["model"] = call.model
    members["sampling_params"] = params
    if salt is not None:
        members["cache_salt"] = checked_salt(salt)
    if priority is not None:
        members["priority"] = checked_integer("priority", priority)
    if features is not None:
        members["features"] = features
    members.update(extra)
    return Draft(members, ("token_ids",), logprobs, start, params.get("n") or 1, members.get("model"))


def headers(call: Call) -> dict[str, str]:
    """VLLM's names; Dynamo's frontend knows them too."""
    named = {
        "x-session-id": call.session_id,
        "x-data-parallel-rank": call.data_parallel_rank,
        "x-request-id": call.request_id,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def _take_logprobs(params: dict[str, Any]) -> int:
    # vLLM's field is an integer, -1 for the whole vocabulary; a bool is a 400 on Dynamo. OpenAI's top_logprobs is no
    # sampling parameter here and stays as it is.
    top = params.pop("top_logprobs", None)
    wanted = take_logprobs(params)
    if wanted < -1:
        raise ValueError(f"logprobs is {wanted}; it must be at least 0, or -1 for the whole vocabulary")
    if top is not None:
        params["top_logprobs"] = top
    return wanted
