"""Response bodies with known contents, in every dialect of every wire.

A :class:`Sample` is what an engine did for one choice. A :class:`Dialect` writes samples the way one server does, key
order included; ``DIALECTS`` has them all. Tests, benches and the demo build their bodies here and nowhere else.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamo_tito._types import Wire

Container: TypeAlias = Literal["object", "npy", "bare"]
Experts: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16] | NDArray[np.int32]
Json: TypeAlias = Any

CONTAINERS: tuple[Container, ...] = ("object", "npy", "bare")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One choice of an engine; logarithms are natural, NaN where the engine has no log-probability."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    """Alternatives per position, in the order in which the server lists them."""
    prompt_logprobs: list[dict[int, float]] | None = None
    """Scores per prompt position by token id; position 0 is not scored and its entry is ignored."""
    mask: list[list[int]] | None = None
    experts: Experts | None = None
    """[P + C - 1 - start, layers, top_k]"""
    start: int = 0
    finish: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one server writes an answer."""

    name: str
    wire: Wire
    container: Container
    """How this server ships routed experts; any other container may be asked for."""
    build: Callable[[Sequence[Sample], Container], Json]
    several: bool = False
    """Whether one answer may hold several choices."""
    top: bool = False
    """Whether alternatives carry token ids, not just text."""
    echo: bool = False
    """Whether the answer repeats the prompt."""
    prompt_logprobs: bool = True
    mask: bool = True


# ------------------------------------------------------------------------------------------- routed experts


def routing(experts: Experts | None, start: int, container: Container) -> Json:
    """Routed experts in one of the three containers; bare strings are int32 on the wire."""
    if experts is None:
        return None
    if container == "object":
        return routing_object(experts, start)
    if container == "npy":
        buffer = io.BytesIO()
        np.save(buffer, experts, allow_pickle=False)
        return base64.b64encode(buffer.getvalue()).decode()
    return base64.b64encode(experts.astype("<i4").tobytes()).decode()


def routing_object(experts: Experts, start: int = 0) -> dict[str, Json]:
    return {
        "data": base64.b64encode(np.ascontiguousarray(experts).tobytes()).decode(),
        "shape": list(experts.shape),
        "start": start,
        "dtype": experts.dtype.name,
    }


# ------------------------------------------------------------------------------------------------- logprobs


def _number(value: float, missing: Json) -> Json:
    return missing if math.isnan(value) else value


def _named(entry: Callable[[int, float], dict[str, Json]], sample: Sample) -> dict[str, Json]:
    return {
        "content": [
            entry(token, logprob) | {"top_logprobs": [entry(*alternative) for alternative in top]}
            for token, logprob, top in zip(sample.tokens, sample.logprobs, sample.top, strict=True)
        ]
    }


def _placeholder(token: int, logprob: float) -> dict[str, Json]:
    """vLLM 0.31 and servers built on it."""
    return {"token": f"token_id:{token}", "logprob": _number(logprob, -9999.0), "bytes": None}


def _placeholder_bytes(token: int, logprob: float) -> dict[str, Json]:
    """Dynamo's frontend: the bytes are those of the placeholder."""
    name = f"token_id:{token}"
    return {"token": name, "logprob": _number(logprob, -9999.0), "bytes": list(name.encode())}


def _integer(token: int, logprob: float) -> dict[str, Json]:
    """vLLM from 0.32 on."""
    return {"token_id": token, "logprob": _number(logprob, -9999.0), "rank": None if math.isnan(logprob) else 1}


def _text(token: int, logprob: float) -> dict[str, Json]:
    text = f"w{token}"
    return {"token": text, "logprob": _number(logprob, -1e30), "bytes": list(text.encode())}


def _chat_content(sample: Sample) -> dict[str, Json]:
    """Dynamo's chat: text that is no identity, with an integer id beside it, and alternatives of text only."""
    entries = [
        {"token": f"w{token}", "logprob": _number(logprob, -1e30), "token_id": token, "bytes": [119]}
        | {"top_logprobs": [_text(*alternative) for alternative in top]}
        for token, logprob, top in zip(sample.tokens, sample.logprobs, sample.top, strict=True)
    ]
    return {"content": entries, "refusal": None}


def _prompt_logprobs(sample: Sample, missing: float) -> Json:
    if sample.prompt_logprobs is None:
        return None
    scored = [
        {
            str(token): {"logprob": _number(logprob, missing), "rank": 1, "decoded_token": " the"}
            for token, logprob in entries.items()
        }
        for entries in sample.prompt_logprobs[1:]
    ]
    return [None, *scored] if sample.prompt else []


def _present(pairs: dict[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in pairs.items() if value is not None}


# --------------------------------------------------------------------------------------------------- Dynamo


def _usage(prompt: int, completion: int) -> dict[str, Json]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _dynamo(choice: dict[str, Json], sample: Sample, nvext: dict[str, Json], kind: str) -> Json:
    return {
        "id": "chatcmpl-11ab4b2b",
        "choices": [choice],
        "created": 1795256068,
        "model": "m",
        "object": kind,
        "usage": _usage(len(sample.prompt), len(sample.tokens)),
        "nvext": nvext,
    }


def _chat_choice(sample: Sample, logprobs: Json) -> dict[str, Json]:
    return {
        "index": 0,
        "message": {"content": '{"token_ids":[7]}', "refusal": None, "role": "assistant"},
        "finish_reason": sample.finish,
        "logprobs": logprobs,
    }


def _engine_data(sample: Sample, container: Container, *, flat: bool) -> dict[str, Json]:
    return _present(
        {
            "prompt_token_ids": sample.prompt,
            "kv_cache_hit": {"prompt_tokens": len(sample.prompt), "reused_tokens": 0},
            "prompt_logprobs": _prompt_logprobs(sample, -1e30),
            "routed_experts": routing(sample.experts, sample.start, container),
            "sampling_mask": sample.mask,
            "completion_token_ids": sample.tokens,
            "finished": True,
            "completion_logprobs": [_number(value, -1e30) for value in sample.logprobs] if flat else None,
        }
    )


def _dynamo_chat(samples: Sequence[Sample], container: Container) -> Json:
    (sample,) = samples
    nvext = {"engine_data": _engine_data(sample, container, flat=True)}
    return _dynamo(_chat_choice(sample, None), sample, nvext, "chat.completion")


def _dynamo_chat_content(samples: Sequence[Sample], container: Container) -> Json:
    (sample,) = samples
    nvext = {"engine_data": _engine_data(sample, container, flat=False)}
    return _dynamo(_chat_choice(sample, _chat_content(sample)), sample, nvext, "chat.completion")


def _dynamo_chat_named(samples: Sequence[Sample], container: Container) -> Json:
    (sample,) = samples
    nvext = _present(
        {
            "completion_token_ids": sample.tokens,
            "routed_experts": routing(sample.experts, sample.start, container),
            "prompt_logprobs": _prompt_logprobs(sample, -1e30),
            "detailed_finish_reason": sample.finish,
        }
    )
    return _dynamo(_chat_choice(sample, _chat_content(sample)), sample, nvext, "chat.completion")


def _dynamo_completions(samples: Sequence[Sample], container: Container) -> Json:
    (sample,) = samples
    choice = {
        "text": "w",
        "index": 0,
        "logprobs": {
            "tokens": [f"w{token}" for token in sample.tokens],
            "token_logprobs": [_number(value, -1e30) for value in sample.logprobs],
            "top_logprobs": [{f"w{token}": _number(value, -1e30) for token, value in top} for top in sample.top],
            "text_offset": [],
        },
        "finish_reason": sample.finish,
    }
    nvext = {"engine_data": _engine_data(sample, container, flat=False)}
    return _dynamo(choice, sample, nvext, "text_completion")


# ----------------------------------------------------------------------------------------------------- vLLM


def _vllm_031(samples: Sequence[Sample], container: Container) -> Json:
    return {
        "request_id": "generate-tokens-8f0c",
        "choices": [
            {
                "index": index,
                "logprobs": _named(_placeholder, sample),
                "finish_reason": sample.finish,
                "token_ids": sample.tokens,
                "routed_experts": routing(sample.experts, sample.start, container),
                "sampling_mask": sample.mask,
            }
            for index, sample in enumerate(samples)
        ],
        "prompt_logprobs": _prompt_logprobs(samples[0], -9999.0),
        "prompt_token_ids": samples[0].prompt,
        "kv_transfer_params": None,
    }


def _vllm_032(samples: Sequence[Sample], container: Container) -> Json:
    return {
        "request_id": "generate-tokens-8f0c",
        "model": "m",
        "created": 1732180000,
        "usage": _usage(len(samples[0].prompt), sum(len(sample.tokens) for sample in samples)),
        "prompt_logprobs": _prompt_logprobs(samples[0], -9999.0),
        "prompt_token_id_logprobs": None,
        "prompt_token_ids": samples[0].prompt,
        "output_mode": "tokens",
        "choices": [
            {
                "index": index,
                "finish_reason": sample.finish,
                "stop_reason": None,
                "token_ids": sample.tokens,
                "routed_experts": routing(sample.experts, sample.start, container),
                "sampling_mask": sample.mask,
                "weight_versions": [{"version": "step_7", "start": 0, "end": len(sample.tokens)}],
                "logprobs": _named(_integer, sample),
            }
            for index, sample in enumerate(samples)
        ],
    }


def _prime_generate(samples: Sequence[Sample], container: Container) -> Json:
    return {
        "request_id": "generate-tokens-8f0c",
        "choices": [
            {
                "index": index,
                "logprobs": _named(_placeholder, sample),
                "finish_reason": sample.finish,
                "token_ids": sample.tokens,
                "routed_experts": routing(sample.experts, sample.start, container),
                "sampling_mask": sample.mask,
            }
            for index, sample in enumerate(samples)
        ],
        "prompt_logprobs": _prompt_logprobs(samples[0], -9999.0),
        "prompt_token_ids": samples[0].prompt,
        "usage": _usage(len(samples[0].prompt), sum(len(sample.tokens) for sample in samples)),
    }


def _dynamo_generate(samples: Sequence[Sample], container: Container) -> Json:
    return {
        "request_id": "7f9e702a-8aea-4080",
        "choices": [
            {
                "index": index,
                "token_ids": sample.tokens,
                "logprobs": _named(_placeholder_bytes, sample),
                "finish_reason": sample.finish,
                "routed_experts": routing(sample.experts, sample.start, container),
                "sampling_mask": sample.mask,
            }
            for index, sample in enumerate(samples)
        ],
        "prompt_logprobs": _prompt_logprobs(samples[0], -9999.0),
        "kv_transfer_params": None,
    }


def _vllm_chat(entry: Callable[[int, float], dict[str, Json]]) -> Callable[[Sequence[Sample], Container], Json]:
    def build(samples: Sequence[Sample], container: Container) -> Json:
        return {
            "id": "chatcmpl-8f0c",
            "object": "chat.completion",
            "created": 1732180000,
            "model": "m",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": "w", "tool_calls": [], "reasoning": None},
                    "logprobs": _named(entry, sample),
                    "finish_reason": sample.finish,
                    "stop_reason": None,
                    "token_ids": sample.tokens,
                    "routed_experts": routing(sample.experts, sample.start, container),
                }
                for index, sample in enumerate(samples)
            ],
            "usage": _usage(len(samples[0].prompt), sum(len(sample.tokens) for sample in samples)),
            "prompt_logprobs": _prompt_logprobs(samples[0], -9999.0),
            "prompt_token_ids": samples[0].prompt,
            "kv_transfer_params": None,
        }

    return build


# --------------------------------------------------------------------------------------------------- SGLang


def _triple(logprob: float, token: int) -> Json:
    return [_number(logprob, None), token, None]


def _sglang(samples: Sequence[Sample], container: Container) -> Json:
    answers = [
        {
            "text": "w",
            "output_ids": sample.tokens,
            "meta_info": _present(
                {
                    "id": f"rid-{index}",
                    "finish_reason": {"type": sample.finish, "matched": 151645},
                    "prompt_tokens": len(sample.prompt),
                    "weight_version": "default",
                    "input_token_logprobs": _sglang_prompt(sample),
                    "output_token_logprobs": [*map(_triple, sample.logprobs, sample.tokens)],
                    "output_top_logprobs": [[_triple(logprob, token) for token, logprob in top] for top in sample.top],
                    "output_token_sampling_mask": sample.mask,
                    "completion_tokens": len(sample.tokens),
                    "cached_tokens": 0,
                    "routed_experts": routing(sample.experts, sample.start, container),
                    "e2e_latency": 0.125,
                }
            ),
        }
        for index, sample in enumerate(samples)
    ]
    return answers if len(answers) > 1 else answers[0]


def _sglang_prompt(sample: Sample) -> Json:
    if sample.prompt_logprobs is None:
        return []
    scores = [math.nan] + [
        entries[token] for token, entries in zip(sample.prompt[1:], sample.prompt_logprobs[1:], strict=True)
    ]
    return [*map(_triple, scores[: len(sample.prompt)], sample.prompt)]


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(name="dynamo_chat", wire="dynamo_chat", container="object", build=_dynamo_chat, echo=True),
        Dialect(
            name="dynamo_chat_content", wire="dynamo_chat", container="object", build=_dynamo_chat_content, echo=True
        ),
        Dialect(name="dynamo_chat_named", wire="dynamo_chat", container="object", build=_dynamo_chat_named, mask=False),
        Dialect(
            name="dynamo_completions",
            wire="dynamo_completions",
            container="object",
            build=_dynamo_completions,
            echo=True,
        ),
        Dialect(
            name="dynamo_generate",
            wire="vllm_generate",
            container="object",
            build=_dynamo_generate,
            several=True,
            top=True,
        ),
        Dialect(
            name="vllm_0.31",
            wire="vllm_generate",
            container="npy",
            build=_vllm_031,
            several=True,
            top=True,
            echo=True,
        ),
        Dialect(
            name="vllm_0.32",
            wire="vllm_generate",
            container="npy",
            build=_vllm_032,
            several=True,
            top=True,
            echo=True,
        ),
        Dialect(
            name="prime_generate",
            wire="vllm_generate",
            container="object",
            build=_prime_generate,
            several=True,
            top=True,
            echo=True,
        ),
        Dialect(
            name="vllm_chat",
            wire="vllm_chat",
            container="npy",
            build=_vllm_chat(_placeholder),
            several=True,
            top=True,
            echo=True,
            mask=False,
        ),
        Dialect(
            name="prime_chat_tokens",
            wire="vllm_chat",
            container="object",
            build=_vllm_chat(_text),
            several=True,
            echo=True,
            mask=False,
        ),
        Dialect(name="sglang", wire="sglang_generate", container="bare", build=_sglang, several=True, top=True),
    )
}
