"""Requests that score. The answer has the log-probabilities of the prompt and one token, which servers always sample.

The rest of the answer is kept small. Text is left out where the route allows it. A teacher with routed experts would
send those of the whole prompt: vLLM is asked for the last row only, SGLang sends none unasked, and on Dynamo's OpenAI
routes they are part of ``engine_data``, so that named fields are asked for instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamo_tito._errors import MissingFieldError

from .call import checked_integer

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport

    from .call import Draft

# The sampled token is not used. No server divides a prompt's logits by this temperature: vLLM's processed modes do
# not reach prompt log-probabilities (vllm#47680), and SGLang computes those of the input without one.
_ONE_TOKEN: Mapping[str, Any] = {"max_tokens": 1, "temperature": 1.0, "logprobs": None}

# Of several places that hold the same scores, the one in which each route has them anyway. Completions has none.
_NAMED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "dynamo_chat": ("completion_token_ids",),
    "dynamo_completions": ("completion_token_ids", "prompt_logprobs"),
}
_TEMPERATURE = "input_logprob_temperature"
_UNWANTED_FIELDS = frozenset(("engine_data", "routed_experts"))


def score_params(transport: RendererTransport, top_k: int) -> dict[str, Any]:
    """The sampling parameters that ask a transport for scores."""
    match transport:
        case "sglang_generate":
            return dict(_ONE_TOKEN)
        case "vllm_generate":
            return {**_ONE_TOKEN, "prompt_logprobs": top_k, "detokenize": False}
        case _:
            return {**_ONE_TOKEN, "prompt_logprobs": top_k}


def checked_temperature(transport: RendererTransport, temperature: Any, extra: Mapping[str, Any] | None) -> float:
    """The temperature to score at.

    Raises:
        TypeError: no number.
        ValueError: not positive, one that the transport's servers cannot score at, or one in ``extra_body``, which
            would only be that of the sampled token.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, not {type(temperature).__name__}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; it must be positive")
    if temperature != 1 and transport != "sglang_generate":
        raise ValueError(f"temperature is {temperature}; servers of {transport} score a prompt at 1 only")
    for given in (extra or {}, (extra or {}).get("sampling_params") or {}):
        if given.get("temperature") not in (None, temperature):
            raise ValueError("temperature in extra_body is not what is scored at; give score(temperature=...)")
    return float(temperature)


def check_scored_at(temperature: float, body: bytes) -> None:
    """Raise a MissingFieldError unless SGLang says that it scored at this temperature.

    Servers without sgl-project/sglang#36213 ignore the member that asks for it, and score at 1.
    """
    meta = json.loads(body).get("meta_info") or {}
    if (said := meta.get(_TEMPERATURE)) != temperature:
        raise MissingFieldError(
            f"{_TEMPERATURE} is {said!r}, not {temperature}: this server does not say that it scores at another "
            "temperature than 1 (sgl-project/sglang#36213)",
            kind="temperature",
            path=f"meta_info.{_TEMPERATURE}",
        )


def score_rows_from(transport: RendererTransport, length: int) -> int | None:
    """The position from which routed experts are sent, on routes that take one: behind the sequence."""
    return length if transport in ("vllm_generate", "prime_chat_tokens", "vllm_completions") else None


def score_draft(transport: RendererTransport, draft: Draft, *, start: int, top_k: int, temperature: float) -> Draft:
    """Completes the body of a scoring request.

    Raises:
        ValueError: several samples are asked for.
    """
    if draft.choices != 1:
        raise ValueError(f"n is {draft.choices}; scoring samples one token once")
    members = draft.members
    if transport == "sglang_generate":
        # The first position that SGLang lists never has a value, whatever the start. The request asks for one more.
        first = max(start - 1, 0)
        members.update(return_logprob=True, logprob_start_len=first, top_logprobs_num=top_k)
        if temperature != 1:
            members[_TEMPERATURE] = temperature
    elif transport in _NAMED_FIELDS:
        nvext = members["nvext"]
        asked = [name for name in nvext["extra_fields"] if name not in _UNWANTED_FIELDS]
        nvext["extra_fields"] = list(dict.fromkeys([*asked, *_NAMED_FIELDS[transport]]))
    return draft


def checked_score(start: Any, top_k: Any, length: int) -> tuple[int, int]:
    """The first position to score, 0 to N, and how many alternatives.

    Raises:
        TypeError: something that is no integer.
        ValueError: a position beyond the sequence, or a negative number.
    """
    first, alternatives = checked_integer("start", start), checked_integer("top_k", top_k)
    if not 0 <= first <= length:
        raise ValueError(f"start is {first}, the sequence has {length} tokens")
    if alternatives < 0:
        raise ValueError(f"top_k is {alternatives}; it must be at least 0")
    return first, alternatives
