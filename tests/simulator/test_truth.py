"""What the embedded engine sampled is what its answers decode to, on every wire and in every dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.simulator import Engine, Fault

PROMPT = [5, 6, 700, 8_000, 31_997, 9]
MESSAGES = [{"role": "user", "content": "(tokens)"}]


@dataclass(frozen=True)
class Dialect:
    """A server, its route, and how a request of `count` tokens with log-probabilities looks there."""

    wire: tito.Wire
    path: str
    settings: dict[str, Any]
    #: engine_data keeps float64; every other channel rounds.
    float64: bool = False
    #: Bare routed experts do not say their shape.
    bare: bool = False

    def body(self, count: int, *, start: int | None = None, n: int = 1, prompt: list[int] = PROMPT) -> dict[str, Any]:
        if self.path == "/generate":
            params = {"max_new_tokens": count, "n": n}
            asked = {"return_logprob": True, "return_routed_experts": True, "return_prompt_token_ids": True}
            return {"input_ids": prompt, "sampling_params": params, "routed_experts_start_len": start, **asked}
        if self.path == "/inference/v1/generate":
            params = {"max_tokens": count, "logprobs": 1, "n": n, "prompt_logprobs": 1}
            trim = {} if start is None else {"routed_experts_prompt_start": start}
            return {"token_ids": prompt, "sampling_params": params | trim, "return_token_ids": True}
        if self.settings["backend"] == "dynamo":
            nvext: dict[str, Any] = {"extra_fields": ["engine_data"]}
            if start is not None:
                nvext["routed_experts_prompt_start"] = start
            common = {"model": "tito-model", "max_tokens": count, "n": n, "prompt_logprobs": 1, "nvext": nvext}
            if self.path == "/v1/completions":
                return common | {"prompt": prompt, "logprobs": 1}
            nvext["token_data"] = prompt
            return common | {"messages": MESSAGES, "logprobs": True}
        common = {"messages": MESSAGES, "max_tokens": count, "n": n, "logprobs": True, "return_token_ids": True}
        return common | {"tokens": prompt, "routed_experts_prompt_start": start, "prompt_logprobs": 1}


CHAT, GENERATE = "/v1/chat/completions", "/inference/v1/generate"
DYNAMO: dict[str, Any] = {"backend": "dynamo", "prompt_start": "trim"}
DIALECTS = {
    "dynamo chat": Dialect("dynamo_chat", CHAT, DYNAMO, float64=True),
    "dynamo chat bare": Dialect(
        "dynamo_chat", CHAT, {"backend": "dynamo", "routed_experts_container": "bare"}, float64=True, bare=True
    ),
    "dynamo completions": Dialect("dynamo_completions", "/v1/completions", DYNAMO, float64=True),
    "dynamo generate": Dialect("vllm_generate", GENERATE, DYNAMO),
    "vllm 0.31 generate": Dialect("vllm_generate", GENERATE, {"backend": "vllm", "vllm_version": "0.31"}),
    "vllm 0.32 generate": Dialect("vllm_generate", GENERATE, {"backend": "vllm", "vllm_version": "0.32"}),
    "vllm generate": Dialect("vllm_generate", GENERATE, {"backend": "vllm"}),
    "vllm chat": Dialect("vllm_chat", CHAT, {"backend": "vllm"}),
    "prime generate": Dialect("vllm_generate", GENERATE, {"backend": "prime"}),
    "prime chat tokens": Dialect("vllm_chat", "/v1/chat/completions/tokens", {"backend": "prime"}),
    "sglang": Dialect("sglang_generate", "/generate", {"backend": "sglang"}, bare=True),
}
#: Where the request's start can trim.
TRIMMING = [name for name in DIALECTS if name != "dynamo chat bare"]


def ask(engine: Engine, dialect: Dialect, **request: Any) -> bytes:
    response = httpx.post(
        engine.url + dialect.path, json=dialect.body(**request), timeout=60.0, trust_env=False, verify=False
    )
    assert response.status_code == 200, response.text[:500]
    return response.content


def same(completion: tito.Completion, engine: Engine, dialect: Dialect, *, start: int, choice: int = 0) -> None:
    """Equal, token by token and row by row, to what the engine has on record."""
    truth = engine.last.samples[choice]
    np.testing.assert_array_equal(completion.token_ids, truth.token_ids)
    logprobs = truth.logprobs if dialect.float64 else truth.logprobs.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(completion.logprobs, logprobs)
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, truth.routed_experts[start:])
    assert completion.routed_experts.start == start
    assert completion.finish_reason == truth.finish_reason


@pytest.mark.parametrize("num_experts", [2, 128, 512])
@pytest.mark.parametrize("start", [None, 2, len(PROMPT) - 1])
@pytest.mark.parametrize("name", TRIMMING)
def test_the_answer_is_what_was_sampled(name: str, start: int | None, num_experts: int) -> None:
    dialect = DIALECTS[name]
    with simulator.running(**dialect.settings, num_experts=num_experts, num_layers=5, top_k=2) as engine:
        body = ask(engine, dialect, count=7, start=start)
        prompt_len = len(engine.last.samples[0].prompt_ids)
        shape: dict[str, Any] = {"num_layers": 5, "top_k": 2} if dialect.bare else {}
        completion = tito.decode(
            body,
            wire=dialect.wire,
            prompt_len=prompt_len,
            routed_experts_prompt_start=start,
            require_routed_experts=True,
            **shape,
        )
        same(completion, engine, dialect, start=start or 0)
    assert len(completion.token_ids) == 7


def test_bare_routing_through_dynamo() -> None:
    dialect = DIALECTS["dynamo chat bare"]
    with simulator.running(**dialect.settings) as engine:
        body = ask(engine, dialect, count=4)
        completion = tito.decode(body, wire="dynamo_chat", prompt_len=len(PROMPT), num_layers=4, top_k=2)
        same(completion, engine, dialect, start=0)


@pytest.mark.parametrize(
    "name", [name for name in DIALECTS if DIALECTS[name].wire in ("vllm_generate", "sglang_generate")]
)
def test_every_choice(name: str) -> None:
    dialect = DIALECTS[name]
    with simulator.running(**dialect.settings) as engine:
        body = ask(engine, dialect, count=5, n=3)
        shape: dict[str, Any] = {"num_layers": 4, "top_k": 2} if dialect.bare else {}
        completions = tito.decode_choices(body, wire=dialect.wire, prompt_len=len(PROMPT), **shape)
        assert len(completions) == 3
        for choice, completion in enumerate(completions):
            same(completion, engine, dialect, start=0, choice=choice)
    assert len({completion.token_ids.tobytes() for completion in completions}) == 3


@pytest.mark.parametrize("name", [name for name in DIALECTS if DIALECTS[name].wire != "sglang_generate"])
def test_prompt_logprobs_are_those_of_the_prompt(name: str) -> None:
    dialect = DIALECTS[name]
    with simulator.running(**dialect.settings) as engine:
        body = ask(engine, dialect, count=2)
        truth = engine.last.samples[0]
        completion = tito.decode(
            body, wire=dialect.wire, prompt_token_ids=truth.prompt_ids.tolist(), num_layers=4, top_k=2
        )
        expected = engine.model.score(truth.prompt_ids, version=truth.version).logprobs
    assert completion.prompt_logprobs is not None
    scored = completion.prompt_logprobs.logprobs
    assert np.isnan(scored[0])
    rounded = expected if dialect.float64 else expected.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(scored[1:], rounded[1:])


def test_ignored_start_is_trimmed_by_the_decoder() -> None:
    dialect = DIALECTS["dynamo chat"]
    with simulator.running(backend="dynamo", prompt_start="ignore") as engine:
        body = ask(engine, dialect, count=3, start=4)
        completion = tito.decode(body, wire="dynamo_chat", prompt_len=len(PROMPT), routed_experts_prompt_start=4)
        same(completion, engine, dialect, start=4)
        raw = tito.decode(body, wire="dynamo_chat", prompt_len=len(PROMPT))
        same(raw, engine, dialect, start=0)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("name", ["dynamo chat", "dynamo generate", "vllm generate", "prime chat tokens", "sglang"])
def test_wrong_rows_are_refused(name: str, by: int) -> None:
    dialect = DIALECTS[name]
    with simulator.running(**dialect.settings) as engine:
        engine.inject(Fault(kind="wrong_rows", by=by))
        body = ask(engine, dialect, count=4)
        with pytest.raises(tito.RoutedExpertsError):
            tito.decode(body, wire=dialect.wire, prompt_len=len(PROMPT), num_layers=4, top_k=2)


@pytest.mark.parametrize("name", TRIMMING)
def test_the_same_on_every_wire_and_in_every_run(name: str) -> None:
    dialect = DIALECTS[name]
    runs = []
    for _ in range(2):
        with simulator.running(**dialect.settings, seed=11) as engine:
            ask(engine, dialect, count=6)
            runs.append(engine.last.samples[0])
    np.testing.assert_array_equal(runs[0].token_ids, runs[1].token_ids)
    if name != "vllm chat":  # which makes its own prompt of the messages
        with simulator.running(**DIALECTS["dynamo generate"].settings, seed=11) as engine:
            ask(engine, DIALECTS["dynamo generate"], count=6)
            np.testing.assert_array_equal(runs[0].token_ids, engine.last.samples[0].token_ids)


def test_64k_tokens() -> None:
    prompt = list(range(300, 700)) * 80
    dialect = DIALECTS["dynamo chat"]
    with simulator.running(**dialect.settings, num_layers=48, top_k=8) as engine:
        body = ask(engine, dialect, count=32_000, prompt=prompt)
        completion = tito.decode(body, wire="dynamo_chat", prompt_len=len(prompt))
        same(completion, engine, dialect, start=0)
    assert completion.routed_experts is not None
    assert completion.routed_experts.array.shape == (63_999, 48, 8)
