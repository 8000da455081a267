"""Outputs that servers send on request and that no result of this library holds: refused before they are paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GIVEN_IDS = "log-probabilities of given ids are not read; logprobs=k and score(top_k=k) read the k best"
_HIDDEN = "hidden states are not read"
_FLAT = "flat top log-probabilities are not read; logprobs=k asks for triples"

_VLLM: Mapping[str, str] = {
    # prompt_token_id_logprobs, a base64 .npy beside the prompt's (vllm 0.33 token_in_token_out/protocol.py).
    "prompt_logprob_token_ids": _GIVEN_IDS,
    # Null in tokens mode unless logprobs are asked for, cut to logprobs by 0.31 and 0.32; Dynamo names them by text.
    "logprob_token_ids": _GIVEN_IDS,
}

UNREAD: Mapping[str, Mapping[str, str]] = {
    "vllm_generate": _VLLM,
    "dynamo_chat": _VLLM,
    "dynamo_completions": _VLLM,
    "prime_chat_tokens": _VLLM,
    # Members of GenerateReqInput (sglang 0.5.23 managers/io_struct.py).
    "sglang_generate": {
        "token_ids_logprob": _GIVEN_IDS,
        "return_hidden_states": _HIDDEN,
        "return_indexer_topk": "the indexer's choices are not read",
        "return_entropy": "entropies are not read",
        "return_flat_raw_top_logprobs": _FLAT,
        "return_flat_raw_output_top_logprobs": _FLAT,
        "return_flat_raw_top_logprobs_b64": _FLAT,
    },
}
"""Per transport: the parameter, and why it is refused."""


def refuse_unread(transport: str, *given: Mapping[str, Any]) -> None:
    """Raise a ValueError if one of these asks for an output that is not read. False and None ask for nothing."""
    for name, why in UNREAD[transport].items():
        for fields in given:
            if fields.get(name) not in (None, False):
                raise ValueError(f"{name} cannot be given on {transport}: {why}")


def refuse_other_value(transport: str, fields: Mapping[str, Any], name: str, allowed: str, why: str) -> None:
    """Raise a ValueError if ``fields`` choose another form of the answer than the one that is read."""
    if fields.get(name) not in (None, allowed):
        raise ValueError(f"{name} must be {allowed!r} on {transport}, not {fields[name]!r}: {why}")
