"""The smallest whole answer of each wire, as text to be damaged.

Prompt 1 2 3, completion 5 6. ``EXPERTS`` has the four rows that P + C - 1 asks for: one layer, two slots, ids 0 to 7.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dynamo_tito as tito
from dynamo_tito import Wire

CHAT = (
    b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop",'
    b'"logprobs":null}],"usage":{"prompt_tokens":3},"nvext":{"engine_data":{"prompt_token_ids":[1,2,3],'
    b'"completion_token_ids":[5,6],"completion_logprobs":[-0.5,-0.25],"finished":true}}}'
)
COMPLETIONS = (
    b'{"id":"c","choices":[{"index":0,"text":"hi","finish_reason":"stop","logprobs":{"tokens":["a","b"],'
    b'"token_logprobs":[-0.5,-0.25],"top_logprobs":[{"a":-0.5},{"b":-0.25}],"text_offset":[]}}],'
    b'"nvext":{"engine_data":{"completion_token_ids":[5,6],"finished":true}}}'
)
GENERATE = (
    b'{"request_id":"r","choices":[{"index":0,"token_ids":[5,6],"logprobs":{"content":['
    b'{"token":"token_id:5","logprob":-0.5,"bytes":null,"top_logprobs":[]},'
    b'{"token":"token_id:6","logprob":-0.25,"bytes":null,"top_logprobs":[]}]},'
    b'"finish_reason":"stop","routed_experts":null,"sampling_mask":null}],"prompt_logprobs":null}'
)
VLLM_CHAT = (
    b'{"id":"c","choices":[{"index":0,"message":{"content":"hi"},"token_ids":[5,6],"logprobs":{"content":['
    b'{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]},'
    b'{"token":"b","logprob":-0.25,"bytes":[98],"top_logprobs":[]}]},'
    b'"finish_reason":"stop","routed_experts":null}],"prompt_token_ids":[1,2,3],"prompt_logprobs":null}'
)
SGLANG = (
    b'{"text":"hi","output_ids":[5,6],"meta_info":{"id":"r","finish_reason":{"type":"stop","matched":6},'
    b'"prompt_tokens":3,"weight_version":"default","input_token_logprobs":[],'
    b'"output_token_logprobs":[[-0.5,5,null],[-0.25,6,null]],"completion_tokens":2}}'
)
EXPERTS = b'{"data":"AAECAwQFBgc=","shape":[4,1,2],"start":0,"dtype":"uint8"}'

BODIES: dict[Wire, bytes] = {
    "dynamo_chat": CHAT,
    "dynamo_completions": COMPLETIONS,
    "vllm_generate": GENERATE,
    "vllm_chat": VLLM_CHAT,
    "sglang_generate": SGLANG,
}


def generated(tokens: list[int]) -> dict[str, Any]:
    """A whole answer of the generate wire with these tokens."""
    content = [{"token": f"token_id:{token}", "logprob": -0.5} for token in tokens]
    choice = {"index": 0, "token_ids": tokens, "logprobs": {"content": content}, "finish_reason": "stop"}
    return {"request_id": "r", "choices": [choice]}


def streamed(tokens: list[int], *, end: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    """The events of :func:`generated`, streamed: one token in each."""
    choices = [{**generated([token])["choices"][0], "finish_reason": None} for token in tokens]
    choices[-1]["finish_reason"] = "stop"
    return [
        *(b"data: " + json.dumps({"request_id": "r", "choices": [choice]}).encode() + b"\n\n" for choice in choices),
        end,
    ]


def swap(body: bytes, old: bytes, new: bytes) -> bytes:
    """The body with its only ``old`` replaced; a test whose damage does nothing fails here."""
    assert body.count(old) == 1, f"{old!r} occurs {body.count(old)} times"
    return body.replace(old, new)


def with_experts(experts: bytes = EXPERTS) -> bytes:
    """``GENERATE`` with routed experts."""
    return swap(GENERATE, b'"routed_experts":null', b'"routed_experts":' + experts)


def uses(body: tito.Body) -> list[Callable[[], object]]:
    """All that a body is for."""
    return [
        lambda: body.append(b" "),
        lambda: body.spare(1),
        body.tobytes,
        lambda: memoryview(body),
        lambda: tito.decode(body, wire="vllm_generate"),
    ]
