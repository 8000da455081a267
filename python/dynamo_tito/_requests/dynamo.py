"""Dynamo's OpenAI routes: ``/v1/chat/completions`` and ``/v1/completions`` with ``nvext``.

``nvext`` and the top level refuse keys they do not know with a 400, and the two routes know different ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .call import (
    Draft,
    checked_integer,
    checked_salt,
    checked_start,
    refuse,
    refuse_features,
    stop_ids,
    take,
    take_logprobs,
    take_stream,
    wire_start,
)
from .defaults import TOP_K_OFF, with_neutral

if TYPE_CHECKING:
    from .call import Call

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

PLACEHOLDER = {"role": "user", "content": "(token-in mode)"}
"""Chat requires a message. With ``token_data`` it has no effect."""

ID = "x-dynamo-request-id"

_OURS = ("engine_data", "detailed_finish_reason")
_DELTAS = "completion_token_ids"
"""Of a stream, the ids of each chunk; engine data comes with the last one only."""

_START = "routed_experts_prompt_start"
# More is a 400 from Dynamo 1.6.1.
_MAX_LOGPROBS = {"dynamo_chat": 20, "dynamo_completions": 5}

# 400 on these routes, or already in the tokens.
_NOT_SENT = ("return_token_ids", "spaces_between_special_tokens", "tools", "tool_choice")


def draft_chat(call: Call, *, send_start: bool = True) -> Draft:
    """The ids in ``nvext.token_data``, beside one placeholder message."""
    fields, nvext, logprobs, start = _shared(call, "dynamo_chat", send_start=send_start)
    refuse(fields, "messages", why="the prompt is prompt_ids")
    refuse(nvext, "token_data", why="the prompt is prompt_ids")
    budget = fields.pop("max_tokens", None)
    if budget is not None:
        fields.setdefault("max_completion_tokens", budget)
    members: dict[str, Any] = {"model": _model(call), "messages": [dict(PLACEHOLDER)], **fields}
    if _in_answer(call, logprobs):
        members["logprobs"] = True
    if logprobs > 1:
        members["top_logprobs"] = logprobs
    members["nvext"] = nvext
    return Draft(members, ("nvext", "token_data"), logprobs, start, model=members["model"])


def draft_completions(call: Call, *, send_start: bool = True) -> Draft:
    """The ids as an integer ``prompt``, which beats ``nvext.token_data`` on this route."""
    fields, nvext, logprobs, start = _shared(call, "dynamo_completions", send_start=send_start)
    refuse(fields, "prompt", why="the prompt is prompt_ids")
    refuse(nvext, "token_data", why="the prompt is prompt_ids")
    budget = fields.pop("max_completion_tokens", None)
    if budget is not None:
        fields.setdefault("max_tokens", budget)
    members: dict[str, Any] = {"model": _model(call), **fields}
    if _in_answer(call, logprobs):
        members["logprobs"] = logprobs
    members["nvext"] = nvext
    return Draft(members, ("prompt",), logprobs, start, model=members["model"])


def headers(call: Call) -> dict[str, str]:
    """Dynamo takes the session from a header only, and the engine's id of the request too.

    The id must be a UUID (1.6.1 and 1.7): for another one the frontend makes up its own, so one is made up here.
    """
    named = {
        "x-dynamo-session-id": call.session_id,
        "x-dynamo-dp-rank": call.data_parallel_rank,
        "x-request-id": call.request_id,
        ID: None if call.request_id is None else _uuid(call.request_id),
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def names_prompt_start(message: str) -> bool:
    """Whether a 400 is about ``routed_experts_prompt_start``, which older servers do not take.

    A server that takes it lists it among the expected fields when it refuses another one.
    """
    for marker in ("unknown field `", "Unsupported parameter(s): "):
        _, found, rest = message.partition(marker)
        if found:
            named = rest.partition("`")[0] if marker.endswith("`") else rest
            return _START in named
    return _START in message


def _shared(call: Call, transport: str, *, send_start: bool) -> tuple[dict[str, Any], dict[str, Any], int, int]:
    """What both routes have in common: top-level fields, ``nvext``, log-probabilities, start."""
    refuse_features(call, transport)
    params, extra = dict(call.sampling_params), dict(call.extra_body or {})
    nvext = _merged(params.pop("nvext", None), extra.pop("nvext", None))
    salt = take({"cache_salt": call.cache_salt}, params, extra, key="cache_salt")
    priority = take({"priority": call.priority}, params, extra, key="priority")
    start = take({_START: call.routed_experts_prompt_start}, params, extra, nvext, key=_START)

    fields = {key: value for key, value in {**params, **extra}.items() if value is not None and key not in _NOT_SENT}
    fields = {**take_stream(call, fields), **fields}
    if fields.get("n", 1) != 1:
        raise ValueError(f"n must be 1 on {transport}: of several samples the answer holds the ids of one")
    if fields.pop("logit_bias", None):
        raise ValueError(f"logit_bias cannot be given on {transport}: the frontend takes it and never applies it")
    if nvext.get("greed_sampling"):
        raise ValueError(
            f"nvext.greed_sampling cannot be given on {transport}: the frontend drops temperature and top_p for it and "
            "the engine samples with the model's defaults; give temperature 0"
        )
    logprobs = _logprobs(params, extra, fields, transport)
    if ids := stop_ids(call, fields.get("stop_token_ids")):
        if fields.get("ignore_eos"):
            raise ValueError(f"stop_token_ids cannot be given with ignore_eos on {transport}: the frontend drops them")
        fields["stop_token_ids"] = ids
    fields = with_neutral(fields, call, top_k=TOP_K_OFF)

    if salt is not None:
        nvext["cache_salt"] = checked_salt(salt)
    if priority is not None:
        nvext["agent_hints"] = {**(nvext.get("agent_hints") or {}), "priority": checked_integer("priority", priority)}
    nvext["extra_fields"] = _extra_fields(call, nvext.get("extra_fields"))
    _add_upload(call, nvext, logprobs)
    position = checked_start(start, call.prompt_len)
    if position and send_start:
        nvext[_START] = wire_start(call, position)
    return fields, nvext, logprobs, position


def _logprobs(params: dict[str, Any], extra: dict[str, Any], fields: dict[str, Any], transport: str) -> int:
    # None is 0, and the filter dropped it from the fields.
    asked = {key: value for key, value in {**params, **extra}.items() if key in ("logprobs", "top_logprobs")}
    for key in asked:
        fields.pop(key, None)
    logprobs = take_logprobs(asked)
    if not 0 <= logprobs <= _MAX_LOGPROBS[transport]:
        raise ValueError(f"logprobs is {logprobs}; {transport} gives 0 to {_MAX_LOGPROBS[transport]}")
    return logprobs


def _merged(*given: Any) -> dict[str, Any]:
    """Several ``nvext`` as one: later keys win, extra fields are united, agent hints merged."""
    merged: dict[str, Any] = {}
    for nvext in given:
        if nvext is None:
            continue
        if not isinstance(nvext, Mapping):
            raise TypeError(f"nvext must be a mapping, not {type(nvext).__name__}")
        fields = [*_names(merged.get("extra_fields")), *_names(nvext.get("extra_fields"))]
        hints = {**(merged.get("agent_hints") or {}), **(nvext.get("agent_hints") or {})}
        merged = {**merged, **nvext}
        if fields:
            merged["extra_fields"] = fields
        if hints:
            merged["agent_hints"] = hints
    return {key: value for key, value in merged.items() if value is not None}


def _extra_fields(call: Call, asked: Any) -> list[str]:
    """The fields of the caller, then those of the client, each once, without what engine data or an artifact holds."""
    ours: tuple[str, ...] = (*_OURS, _DELTAS) if call.stream else _OURS
    if call.artifact is not None:
        ours = tuple(name for name in ours if name != "engine_data")
    return [name for name in dict.fromkeys([*_names(asked), *ours]) if name != "routed_experts"]


def _in_answer(call: Call, logprobs: int) -> bool:
    """Whether to ask for log-probabilities beside the artifact: how many candidates it has is asked for there."""
    return logprobs > (0 if call.artifact is None else 1)


def _add_upload(call: Call, nvext: dict[str, Any], logprobs: int) -> None:
    """Ask for a generation artifact in the answer, as Dynamo 1.7 takes it; 1.6.1 answers 400.

    Of a stream, the chunk with the finish reason has it.
    """
    if call.artifact is None:
        return
    refuse(nvext, "metadata_upload", why="artifact asks for it")
    wanted = {
        "moe_routes": call.routed_experts or call.routed_experts_prompt_start is not None,
        "selected_logprobs": logprobs > 0,
        "topk_logprobs": logprobs > 1,
    }
    contents = [name for name, asked in wanted.items() if asked]
    nvext["metadata_upload"] = {"kind": "generation_artifact", "contents": contents, "mode": "inline_base64"}


def _names(asked: Any) -> list[str]:
    if asked is None:
        return []
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise TypeError(f"nvext.extra_fields must be a list of names, not {type(asked).__name__}")
    return list(asked)


def _uuid(text: str) -> str:
    try:
        uuid.UUID(text)
    except ValueError:
        return str(uuid.uuid4())
    return text


def _model(call: Call) -> str:
    if call.model is None:
        raise ValueError("Dynamo's OpenAI routes need a model")
    return call.model
