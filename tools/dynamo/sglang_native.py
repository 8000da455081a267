"""The stand-in's answers to SGLang-native `/generate`, in the form of `dynamo/sglang/engine_generate.py`.

The frontend hands the request over in `extra_args.sglang_tito` and streams each chunk's `sglang_response` on. It asks
for deltas: each chunk brings the tokens after those of the chunk before. What belongs to the prompt is repeated.
"""

from __future__ import annotations

import base64
from typing import Any


def asked(request: dict[str, Any]) -> dict[str, Any] | None:
    """SGLang's own request; None if the request came by another route."""
    native: dict[str, Any] | None = (request.get("extra_args") or {}).get("sglang_tito")
    return native


class Native:
    """One native request, and the chunks that answer it; the frontend asks for one choice."""

    def __init__(self, native: dict[str, Any], prompt: list[int], context_id: str, control: dict[str, Any]) -> None:
        self._native, self.prompt, self._control = native, prompt, control
        self._id = native.get("rid") or context_id
        params = native.get("sampling_params") or {}
        self.sampling = {
            "request_seed": params.get("sampling_seed"),
            "stop_token_ids": params.get("stop_token_ids") or [],
            "min_tokens": params.get("min_new_tokens") or 0,
        }
        self.max_tokens = int(params.get("max_new_tokens") or control["max_tokens"])

    def chunk(self, sample: Any, begin: int, end: int, model: Any) -> dict[str, Any]:
        """The worker's message about the tokens from `begin` to `end`."""
        native, ids = self._native, sample.token_ids[begin:end].tolist()
        meta: dict[str, Any] = {
            "id": self._id,
            "finish_reason": None,
            "prompt_tokens": len(self.prompt),
            "weight_version": sample.version,
            "completion_tokens": end,
            "cached_tokens": 0,
        }
        if native.get("return_logprob"):
            top = native.get("top_logprobs_num") or 0
            best = _triples(model, sample.scores, begin, end, top)
            meta |= self._about_prompt(sample, model)
            meta["output_token_logprobs"] = [row[0] for row in best]
            meta["output_token_logprobs_length"] = end
            if top:
                meta["output_top_logprobs"] = [sorted(row, reverse=True, key=_logprob)[:top] for row in best]
        if end == len(sample.token_ids):
            meta["finish_reason"] = self._finish(sample)
            if native.get("return_routed_experts"):
                rows = sample.routing(native.get("routed_experts_start_len") or 0)
                meta["routed_experts"] = base64.b64encode(rows.astype("<i4").tobytes()).decode()
        response: dict[str, Any] = {"text": "", "output_ids": ids, "meta_info": meta}
        if native.get("return_prompt_token_ids"):
            response["prompt_token_ids"] = self.prompt
        return {"token_ids": [], "engine_data": {"sglang_response": response}}

    def _about_prompt(self, sample: Any, model: Any) -> dict[str, Any]:
        begin = self._native.get("logprob_start_len")
        if begin is None or begin < 0:
            return {"input_token_logprobs": []}
        top = self._native.get("top_logprobs_num") or 0
        scores = model.score(sample.prompt_ids, version=sample.version)
        rows = _triples(model, scores, begin, len(self.prompt), top)
        # Whatever the start, the first has no value.
        first = [[None, self.prompt[begin], None]] if rows else []
        about: dict[str, Any] = {"input_token_logprobs": [*first, *(row[0] for row in rows[1:])]}
        if top and rows:
            best = [sorted(row, reverse=True, key=_logprob)[:top] for row in rows[1:]]
            about["input_top_logprobs"] = [None, *best]
        return about

    def _finish(self, sample: Any) -> dict[str, Any]:
        reason = self._control["finish_reason"] or sample.finish_reason
        if reason == "length":
            return {"type": "length", "length": len(sample.token_ids)}
        if reason in ("stop", "eos"):
            matched = sample.stop_reason
            return {"type": "stop", "matched": int(sample.token_ids[-1]) if matched is None else matched}
        return {"type": reason, "message": "Aborted", "status_code": None, "err_type": None}


def _logprob(triple: list[Any]) -> float:
    return float(triple[0])


def _triples(model: Any, scores: Any, begin: int, end: int, top: int) -> list[list[list[Any]]]:
    """Per position: the token's own triple, then the rest of the best `top`."""
    part = type(scores)(*(getattr(scores, name)[begin:end] for name in scores.__slots__))
    ids, logprobs, _, counts = (values.tolist() for values in model.alternatives(part, top))
    own = zip(part.logprobs.tolist(), part.token_ids.tolist(), strict=True)
    return [
        [[value, token, None]]
        + [[other, name, None] for name, other in zip(ids[at][:count], logprobs[at][:count], strict=True)]
        for at, ((value, token), count) in enumerate(zip(own, counts, strict=True))
    ]
