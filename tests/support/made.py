"""Bodies in dialects that no recording has, with the samples that they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .bodies import DIALECTS, Container, Dialect, Sample
from .samples import invent
from .writing import compact

FOLDER = Path(__file__).parents[1] / "data" / "made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One kept body, what it holds, and how to ask for it."""

    name: str
    dialect: Dialect
    samples: list[Sample]
    container: Container
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return FOLDER / self.name

    def write(self) -> bytes:
        """The body, made anew."""
        return compact(self.dialect.build(self.samples, self.container))

    def __str__(self) -> str:
        return self.name.removesuffix(".json")


def _made(name: str, dialect: str, *samples: Sample, container: Container | None = None, **options: Any) -> Made:
    chosen = DIALECTS[dialect]
    return Made(
        name=f"{name}.json",
        dialect=chosen,
        samples=list(samples),
        container=container or chosen.container,
        options={"prompt_len": len(samples[0].prompt)} | options,
    )


_PLAIN = invent(1, prompt=7, completion=5, top=2, mask=True)
_SCORED = invent(2, prompt=6, completion=4, top=1, prompt_logprobs=True)
_WIDE = invent(3, prompt=5, completion=6, layers=3, top_k=4, experts=512, top=1)
_TRIMMED = invent(4, prompt=9, completion=3, start=8, top=1)
_SECOND = replace(invent(5, prompt=7, completion=8, top=2, mask=True), prompt=_PLAIN.prompt)
_ABORTED = replace(_PLAIN, finish="abort", experts=None if _PLAIN.experts is None else _PLAIN.experts[:-2])
_ROW: dict[str, Any] = {"num_layers": 4, "top_k": 2}

BODIES = [
    _made("vllm_0.31", "vllm_0.31", _PLAIN),
    _made("vllm_0.31_uint16", "vllm_0.31", _WIDE),
    _made("vllm_0.32", "vllm_0.32", _PLAIN),
    _made("vllm_0.32_prompt_logprobs", "vllm_0.32", _SCORED),
    _made("vllm_0.32_trimmed", "vllm_0.32", _TRIMMED, routed_experts_prompt_start=8),
    _made("vllm_0.32_n2", "vllm_0.32", _PLAIN, _SECOND),
    _made("vllm_0.32_aborted", "vllm_0.32", _ABORTED),
    _made("prime_generate", "prime_generate", _PLAIN),
    _made("prime_generate_uint16", "prime_generate", _WIDE),
    _made("prime_generate_trimmed", "prime_generate", _TRIMMED, routed_experts_prompt_start=8),
    _made("vllm_chat", "vllm_chat", _SCORED),
    _made("prime_chat_tokens", "prime_chat_tokens", _PLAIN),
    _made("sglang", "sglang", _PLAIN, **_ROW),
    _made("sglang_prompt_logprobs", "sglang", _SCORED, prompt_token_ids=_SCORED.prompt, **_ROW),
    _made("sglang_n2", "sglang", _PLAIN, _SECOND, **_ROW),
    _made("dynamo_sampling_mask", "dynamo_chat_content", _PLAIN),
    _made("dynamo_npy", "dynamo_chat", _PLAIN, container="npy"),
]
