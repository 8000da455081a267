"""The stand-in's answers to SGLang-native `/generate`, in the form of `dynamo/sglang/engine_generate.py`.

The frontend hands the request over in `extra_args.sglang_tito` and streams each chunk's `sglang_response` on. It asks
for deltas: each chunk brings the tokens after those of the chunk before.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any


def asked(request: dict[str, Any]) -> dict[str, Any] | None:
    """SGLang's own request; None if the request came by another route."""
    native: dict[str, Any] | None = (request.get("extra_args") or {}).get("sglang_tito")
    return native


def chunks(sample: Any, native: dict[str, Any], prompt_len: int) -> Iterator[dict[str, Any]]:
    """One chunk per token; the last brings what is of the whole."""
    ids, logprobs = sample.token_ids.tolist(), sample.logprobs.tolist()
    for at, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
        meta: dict[str, Any] = {
            "id": "replaced by the frontend",
            "finish_reason": None,
            "prompt_tokens": prompt_len,
            "completion_tokens": at + 1,
            "cached_tokens": 0,
            "weight_version": sample.version,
        }
        if native.get("return_logprob"):
            meta["output_token_logprobs"] = [[logprob, token, None]]
        chunk: dict[str, Any] = {"token_ids": [token]}
        if at == len(ids) - 1:
            meta["finish_reason"] = {"type": "length", "length": len(ids)}
            chunk["finish_reason"] = "length"
            if native.get("return_routed_experts"):
                rows = sample.routing(native.get("routed_experts_start_len") or 0)
                meta["routed_experts"] = base64.b64encode(rows.astype("<i4").tobytes()).decode()
        chunk["engine_data"] = {"sglang_response": {"text": "", "output_ids": [token], "meta_info": meta}}
        yield chunk
