"""The response bodies that are measured, from a seed, and what each must decode to; kept in ``.bench/`` once made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dynamo_tito._types import Float64Array, Int32Array, Wire
from support import bodies, samples, writing

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".bench"

Shape = Literal["vllm", "nvext", "nvchat"]
"""How a body carries its tokens: vLLM's generate with an entry per token; Dynamo's chat with flat lists in
``nvext.engine_data``; the same with the log-probabilities in ``choices[0].logprobs.content`` instead."""

_DIALECTS: dict[Shape, bodies.Dialect] = {
    "vllm": bodies.DIALECTS["prime_generate"],
    "nvext": bodies.DIALECTS["dynamo_chat"],
    "nvchat": bodies.DIALECTS["dynamo_chat_content"],
}

# What prompts decode to, characters that must be escaped among them.
_WORDS = (" the", "ing", "\n", ' "x"', "你", " def", "0", " return", "é", "}")
_MESSAGE = '<think>\nLet me compute "x".\n'


@dataclass(frozen=True, slots=True)
class Case:
    """One response.

    Attributes:
        shape: how the body is laid out.
        total: tokens of prompt and completion; routed experts have one row less.
        completion: tokens that were sampled.
        layers: decoder layers; 0 leaves routed experts out.
        top_k: experts per token and layer.
        experts: how many there are; more than 256 make the ids two bytes wide.
        top: alternatives per sampled token.
        scored: entries per prompt position; 0 leaves the prompt's log-probabilities out.
    """

    shape: Shape
    total: int
    completion: int
    layers: int = 0
    top_k: int = 0
    experts: int = 128
    top: int = 0
    scored: Literal[0, 1, 2] = 0

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, whose rows a client has already."""
        return self.total - self.completion

    @property
    def wire(self) -> Wire:
        """The wire of the body."""
        return _DIALECTS[self.shape].wire


CASES: dict[str, Case] = {
    "a_vllm": Case("vllm", 1_280, 256),
    "a_nvext": Case("nvext", 1_280, 256),
    "b_vllm": Case("vllm", 8_192, 4_096, 48, 8),
    "b_vllm_top1": Case("vllm", 8_192, 4_096, 48, 8, top=1),
    "b_vllm_top5": Case("vllm", 8_192, 4_096, 48, 8, top=5),
    "b_nvext": Case("nvext", 8_192, 4_096, 48, 8),
    "b_nvchat_top1": Case("nvchat", 8_192, 4_096, 48, 8, top=1),
    "c_vllm": Case("vllm", 65_536, 16_384, 48, 8),
    "c_vllm_top5": Case("vllm", 65_536, 16_384, 48, 8, top=5),
    "c_nvext": Case("nvext", 65_536, 16_384, 48, 8),
    "c_vllm_noexp": Case("vllm", 65_536, 65_024),
    "c_nvext_noexp": Case("nvext", 65_536, 65_024),
    "c_nvchat_noexp": Case("nvchat", 65_536, 65_024),
    "d_vllm": Case("vllm", 16_384, 8_192, 88, 22, experts=512),
    "d_nvext": Case("nvext", 16_384, 8_192, 88, 22, experts=512),
    "e_vllm": Case("vllm", 32_784, 16, scored=1),
    "e_vllm_k2": Case("vllm", 32_784, 16, scored=2),
    "e_nvext": Case("nvext", 32_784, 16, scored=1),
}


class Truth(NamedTuple):
    """What a body must decode to, bit for bit."""

    token_ids: Int32Array
    logprobs: Float64Array
    experts: Int32Array | None
    """Of every position, int32."""
    prompt_logprobs: Float64Array | None

    def without_prompt(self, case: Case) -> Truth:
        """The same without the rows of the prompt."""
        return self._replace(experts=None if self.experts is None else self.experts[case.prompt :])


def load(name: str) -> tuple[bytes, Truth]:
    """The body of a named case and its truth."""
    return body(name), truth(name)


def body(name: str) -> bytes:
    """The body of a named case, made on first use."""
    return where(name).read_bytes()


def truth(name: str) -> Truth:
    """What it must decode to."""
    with np.load(where(name).with_suffix(".npz")) as kept:
        arrays: dict[str, Any] = {key: kept.get(key) for key in Truth._fields}
    return Truth(**arrays)


def where(name: str) -> Path:
    """The file that holds the body of a named case; its expected values are beside it."""
    path = KEPT / f"{name}-{_recipe()}.json"
    if not path.exists():
        for suffix in ("json", "npz"):
            for old in KEPT.glob(f"{name}-{'[0-9a-f]' * 12}.{suffix}"):
                old.unlink()
        KEPT.mkdir(exist_ok=True)
        text, facts = make(CASES[name])
        arrays: dict[str, Any] = {key: value for key, value in facts._asdict().items() if value is not None}
        np.savez(path.with_suffix(".npz"), allow_pickle=False, **arrays)
        path.write_bytes(text)  # last: what exists is whole
    return path


def make(case: Case) -> tuple[bytes, Truth]:
    """A body and its truth."""
    sample = samples.invent(
        0,
        prompt=case.prompt,
        completion=case.completion,
        layers=case.layers,
        top_k=case.top_k,
        experts=case.experts,
        top=case.top,
        prompt_logprobs=case.scored > 0,
    )
    if case.shape == "nvchat":
        sample = _printed_short(sample)
    if case.scored == 1:
        sample = _own_entries(sample)
    dialect = _DIALECTS[case.shape]
    document = dialect.build([sample], dialect.container)
    if case.shape == "vllm":
        if not case.scored:
            document["prompt_token_ids"] = None
        _decode_prompt(document["prompt_logprobs"])
    else:
        document["choices"][0]["message"]["content"] = _MESSAGE * (case.completion // 8)
        _decode_prompt(document["nvext"]["engine_data"].get("prompt_logprobs"))
    return writing.compact(document), _truth(sample)


def _printed_short(sample: bodies.Sample) -> bodies.Sample:
    """Log-probabilities as Dynamo's chat prints them: the shortest decimal that is the same float32."""
    return dataclasses.replace(sample, logprobs=[float(str(np.float32(value))) for value in sample.logprobs])


def _own_entries(sample: bodies.Sample) -> bodies.Sample:
    assert sample.prompt_logprobs is not None
    scores = zip(sample.prompt, sample.prompt_logprobs, strict=True)
    return dataclasses.replace(sample, prompt_logprobs=[{token: entries[token]} for token, entries in scores])


def _decode_prompt(positions: list[Any] | None) -> None:
    """Gives the prompt's entries different texts."""
    for number, entries in enumerate(positions or ()):
        for entry in (entries or {}).values():
            entry["decoded_token"] = _WORDS[number % len(_WORDS)]


def _truth(sample: bodies.Sample) -> Truth:
    prompt = None
    if sample.prompt_logprobs is not None:
        scores = zip(sample.prompt, sample.prompt_logprobs, strict=True)
        prompt = np.array([entries[token] for token, entries in scores])
        prompt[0] = np.nan
    experts = None if sample.experts is None else sample.experts.astype(np.int32)
    return Truth(np.array(sample.tokens, np.int32), np.array(sample.logprobs), experts, prompt)


@functools.cache
def _recipe() -> str:
    """Changes when the code that makes bodies does."""
    sources = (Path(__file__).read_text(), *map(inspect.getsource, (bodies, samples, writing)))
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]
