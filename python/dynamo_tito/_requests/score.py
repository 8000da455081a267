"""Requests that score: what a prompt's own tokens are worth comes back, and one sampled token, because servers insist.

The rest of the answer is kept small. Text is left out where the route allows it. A teacher with routed experts would
send those of the whole prompt: vLLM is asked for the last row only, SGLang sends none unasked, and on Dynamo's OpenAI
routes they are part of ``engine_data``, so that named fields are asked for instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .call import checked_integer

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport

    from .call import Draft

# At temperature 1 processed log-probabilities (Dynamo with --enable-rl) are the model's own; servers that take defaults
# from the model's generation_config would not use it unasked.
_ONE_TOKEN: Mapping[str, Any] = {"max_tokens": 1, "temperature": 1.0, "logprobs": None}

# Of several places that hold the same scores, the one in which each route has them anyway. Completions has none.
_NAMED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "dynamo_chat": ("completion_token_ids",),
    "dynamo_completions": ("completion_token_ids", "prompt_logprobs"),
}
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


def score_rows_from(transport: RendererTransport, length: int) -> int | None:
    """The position from which routed experts are sent, where that can be said: behind the sequence."""
    return length if transport in ("vllm_generate", "prime_chat_tokens") else None


def score_draft(transport: RendererTransport, draft: Draft, *, start: int, top_k: int) -> Draft:
    """Completes the body of a scoring request.

    Raises:
        ValueError: several samples are asked for.
    """
    if draft.choices != 1:
        raise ValueError(f"n is {draft.choices}; scoring samples one token once")
    members = draft.members
    if transport == "sglang_generate":
        # The first position that SGLang lists never has a value, whatever the start: it is asked for one more.
        first = max(start - 1, 0)
        members.update(return_logprob=True, logprob_start_len=first, top_logprobs_num=top_k)
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
