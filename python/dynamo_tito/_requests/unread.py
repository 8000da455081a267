"""Fields that ask a server for what the decoder does not read: refused, because an answer without them looks whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNREAD = {
    "token_ids_logprob": "meta_info.input_token_ids_logprobs and output_token_ids_logprobs",
    "return_flat_raw_top_logprobs": "the flat top log-probabilities of meta_info",
    "prompt_logprob_token_ids": "prompt_token_id_logprobs",
}
"""The field of a request (SGLang's, SGLang's, vLLM's), and where its answer stands."""


def refuse_unread(members: Mapping[str, Any]) -> None:
    """Refuse a body, or ``sampling_params`` or ``nvext`` in it, that asks for what is not read.

    Raises:
        ValueError: a field whose answer would be dropped.
    """
    for fields in (members, members.get("sampling_params"), members.get("nvext")):
        for key, answer in _UNREAD.items():
            asked = fields.get(key) if isinstance(fields, Mapping) else None
            if asked is not None and asked is not False:
                raise ValueError(f"{key} cannot be given: {answer} of the answer is not read; ask for top_k instead")
