"""SGLang's /v1/chat/completions with `input_ids`: an answer of /generate in each choice.

Facts: `srt/entrypoints/openai/protocol.py` and `serving_chat.py` of SGLang 0.5.23.
"""

from __future__ import annotations

import time
from typing import Any

from dynamo_tito.simulator.calls import Call, EngineError
from dynamo_tito.simulator.encode import dumps
from dynamo_tito.simulator.model import Sample
from dynamo_tito.simulator.response import Response

from .sglang_generate import SglangGenerate

__all__ = ["SglangChat"]

_UNSTREAMED = ("return_prompt_token_ids", "return_token_ids", "return_meta_info")
_RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
}
_SAMPLING = ("n", "stop_token_ids", "ignore_eos", "top_k")
_SHARED = (
    "return_routed_experts", "routed_experts_start_len", "return_prompt_token_ids", "rid", "return_sampling_mask",
    "return_flat_raw_output_top_logprobs",
)  # fmt: skip


class SglangChat(SglangGenerate):
    """Mixed into a server."""

    async def answer_chat(self, call: Call, document: dict[str, Any]) -> Response:
        """The answer in one piece; the embedded engine streams no text of this route."""
        if call.streams(document):
            for name in _UNSTREAMED:
                if document.get(name):
                    raise EngineError(400, f"{name} is not supported with streaming. Please set stream=false.")
            raise EngineError(501, "the embedded engine does not stream SGLang's chat")
        native = self._native(document)
        flight = await self.take_off(call, native, streams=False)
        try:
            samples = await flight.whole()
        finally:
            flight.land()
        answers = [await self.answer(call, native, sample, sample) for sample in samples]
        first = answers[0]["meta_info"]
        prompt, sampled = len(samples[0].prompt_ids), sum(len(sample.token_ids) for sample in samples)
        return Response(
            200,
            dumps(
                {
                    "id": first["id"], "object": "chat.completion", "created": int(time.time()),
                    "model": self.engine.config.model, "choices": [
                        self._choice(document, sample, answer) for sample, answer in zip(samples, answers, strict=True)
                    ],
                    "usage": {
                        "prompt_tokens": prompt, "total_tokens": prompt + sampled, "completion_tokens": sampled,
                        "prompt_tokens_details": None, "reasoning_tokens": 0,
                    },
                    "metadata": {"weight_version": first["weight_version"]},
                }
            ),
        )  # fmt: skip

    def _native(self, document: dict[str, Any]) -> dict[str, Any]:
        """The same request to /generate."""
        params = {name: document[name] for name in _SAMPLING if document.get(name) is not None}
        for name, native in _RENAMED.items():
            if document.get(name) is not None:
                params[native] = document[name]
        prompt = document.get("input_ids")
        if prompt is None:
            prompt = self.engine.tokenizer.apply_chat_template(document.get("messages") or [])
        return {
            "input_ids": prompt,
            "sampling_params": params,
            "return_logprob": bool(document.get("logprobs")),
            "top_logprobs_num": document.get("top_logprobs") or 0,
            # Unlike the native route.
            "return_flat_raw_top_logprobs_b64": document.get("return_flat_raw_top_logprobs_b64", True),
            **{name: document[name] for name in _SHARED if name in document},
        }

    @staticmethod
    def _choice(document: dict[str, Any], sample: Sample, answer: dict[str, Any]) -> dict[str, Any]:
        reason = answer["meta_info"]["finish_reason"]
        choice: dict[str, Any] = {
            "index": sample.index,
            "message": {"role": "assistant", "content": answer["text"], "reasoning_content": None, "tool_calls": None},
            "logprobs": None,
            "finish_reason": reason["type"],
            "matched_stop": reason.get("matched"),
        }
        if document.get("return_prompt_token_ids") or document.get("return_token_ids"):
            choice["prompt_token_ids"] = sample.prompt_ids.tolist()
        if document.get("return_token_ids"):
            choice["response_token_ids"] = answer["output_ids"]
        if document.get("return_meta_info"):
            choice["meta_info"] = answer["meta_info"]
        return choice
