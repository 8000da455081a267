"""Request fields that add data which the decoder does not read. They are refused, because the data would be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNREAD = {
    # vLLM 0.33 (token_in_token_out/protocol.py). The second is null in tokens mode unless logprobs are asked for, cut
    # to those by 0.31 and 0.32, and named by text on Dynamo.
    "prompt_logprob_token_ids": "prompt_token_id_logprobs of the answer is not read; ask for top_k instead",
    "logprob_token_ids": "a log-probability of given ids is not read; ask for logprobs=k instead",
    # SGLang 0.5.23 (managers/io_struct.py).
    "token_ids_logprob": "meta_info.input_token_ids_logprobs of the answer is not read; ask for top_k instead",
    "return_hidden_states": "meta_info.hidden_states of the answer is not read",
    "return_indexer_topk": "meta_info.indexer_topk of the answer is not read",
    "return_entropy": "an entropy is not read",
    "return_flat_raw_top_logprobs": "the flat form of the top entries is not read; ask for logprobs=k instead",
    "return_flat_raw_output_top_logprobs": "the flat form of the top entries is not read; ask for logprobs=k instead",
    "return_flat_raw_top_logprobs_b64": "the flat form of the top entries is not read; ask for logprobs=k instead",
}
"""The field of a request, and why it is refused."""

_READ_AS = {"output_mode": "tokens", "sampling_logprobs_mode": "selected"}
"""Fields that choose a form of the answer, and the form that is read: the others name no tokens, or score a mask."""

_ASKED = _UNREAD.keys() | _READ_AS.keys()


def refuse_unread(members: Mapping[str, Any]) -> None:
    """Refuse a body that has such a field, also in its ``sampling_params`` or ``nvext``.

    Raises:
        ValueError: a field whose answer would be dropped.
    """
    for fields in (members, members.get("sampling_params"), members.get("nvext")):
        if not isinstance(fields, Mapping) or _ASKED.isdisjoint(fields):
            continue
        for key, why in _UNREAD.items():
            asked = fields.get(key)
            if asked is not None and asked is not False:
                raise ValueError(f"{key} cannot be given: {why}")
        for key, form in _READ_AS.items():
            if fields.get(key) not in (None, form):
                raise ValueError(f"{key} must be {form!r}, not {fields[key]!r}: another form of the answer is not read")
