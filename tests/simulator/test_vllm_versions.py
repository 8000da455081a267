"""Differences between the versions of vLLM that the embedded engine plays, and between vLLM and other servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine

GENERATE, CHAT, COMPLETIONS = "/inference/v1/generate", "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


def ask(engine: Engine, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = httpx.post(engine.url + path, json=body, timeout=30.0, trust_env=False, verify=False)
    assert answer.status_code == status, answer.text
    return answer.json()


def generate(engine: Engine, status: int = 200, **params: Any) -> Any:
    return ask(engine, GENERATE, {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 5} | params}, status)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with simulator.running(backend="vllm") as running:
        yield running


def tops(answer: Any) -> list[int]:
    return [len(entry["top_logprobs"]) for entry in answer["choices"][0]["logprobs"]["content"]]


@pytest.mark.parametrize("k", [0, 1, 3, 20])
@pytest.mark.parametrize("version", ["0.31", "0.32", "0.33"])
def test_alternatives_are_cut_before_0_33(version: Any, k: int) -> None:
    with simulator.running(backend="vllm", vllm_version=version) as engine:
        counts = tops(generate(engine, logprobs=k))
        ranks = engine.last.samples[0].scores.ranks.tolist()
    if version == "0.33":
        assert counts == [k if rank <= k else k + 1 for rank in ranks]
    else:
        assert counts == [max(k, 1)] * 5


@pytest.mark.parametrize("version", ["0.31", "0.32", "0.33"])
def test_the_whole_vocabulary_is_given_where_the_server_allows_it(version: Any) -> None:
    settings: dict[str, Any] = {"backend": "vllm", "vllm_version": version, "vocab_size": 300}
    with simulator.running(**settings) as engine:
        for name in ("logprobs", "prompt_logprobs"):
            error = generate(engine, 400, **{name: -1})["error"]
            assert error["param"] == name
            assert "300, which is greater than max allowed: 20" in error["message"]
    with simulator.running(**settings, max_logprobs=-1) as engine:
        answer = generate(engine, logprobs=-1, prompt_logprobs=-1)
        assert tops(answer) == [300] * 5
        assert [len(row) for row in answer["prompt_logprobs"][1:]] == [300] * 2


def test_a_stop_string_ends_the_answer(engine: Engine) -> None:
    whole = generate(engine, max_tokens=30)["choices"][0]["token_ids"]
    digit = engine.tokenizer.decode([whole[3]])[1]
    answer = generate(engine, max_tokens=30, stop=[digit])["choices"][0]
    ends = next(at for at, token in enumerate(whole, 1) if digit in engine.tokenizer.decode([token]))
    assert (answer["finish_reason"], answer["stop_reason"]) == ("stop", digit)
    assert answer["token_ids"] == whole[:ends]
    # What has to be sampled first is not looked at.
    later = generate(engine, max_tokens=30, stop=["w"], min_tokens=4)["choices"][0]
    assert later["token_ids"] == whole[:5]


@pytest.mark.parametrize("path", [GENERATE, CHAT, COMPLETIONS])
def test_a_token_beyond_the_vocabulary_is_refused(path: str) -> None:
    with simulator.running(backend="vllm", vocab_size=300, max_model_len=100) as engine:
        body: dict[str, Any] = {"token_ids": [300], "prompt": [300], "sampling_params": {}, "max_tokens": 1}
        if path == CHAT:
            body["messages"] = [{"role": "user", "content": "x" * 200}]
        error = ask(engine, path, body, 400)["error"]
    assert error["type"] == "BadRequestError"
    # The tokenizer of chat has no such token, and stops one behind the limit.
    said = "your prompt contains at least 101 input tokens" if path == CHAT else "Token id 300 is out of vocabulary"
    assert said in error["message"]


def test_values_are_coerced(engine: Engine) -> None:
    plain = generate(engine, logprobs=1, n=2)
    body = {"token_ids": ["1", 2.0, 3], "sampling_params": {"max_tokens": "5", "logprobs": True, "n": 2.0}}
    coerced = ask(engine, GENERATE, body)
    assert [choice["token_ids"] for choice in coerced["choices"]] == [c["token_ids"] for c in plain["choices"]]
    assert tops(coerced) == tops(plain)


def test_a_byte_that_is_no_text_has_no_bytes(engine: Engine) -> None:
    body = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "max_tokens": 2, "return_token_ids": True}
    choice = ask(engine, CHAT, body | {"logit_bias": {"200": 100}})["choices"][0]
    assert choice["token_ids"] == [200, 200]
    entries = choice["logprobs"]["content"]
    assert [(entry["token"], entry["bytes"]) for entry in entries] == [("", []), ("", [])]
    assert [(entry["top_logprobs"][0]["token"], entry["top_logprobs"][0]["bytes"]) for entry in entries] == [
        ("", [])
    ] * 2


@pytest.mark.parametrize("version", ["0.31", "0.32", "0.33"])
def test_chat_names_its_weights_from_0_33_on(version: Any) -> None:
    with simulator.running(backend="vllm", vllm_version=version) as engine:
        body = {"messages": MESSAGES, "max_tokens": 2, "return_weight_versions": True}
        answer = ask(engine, CHAT, body)
    spans = {"0.33": [{"version": "default", "start": 0, "end": 2}]}
    assert answer["choices"][0].get("weight_versions") == spans.get(version)
    assert ("weight_versions" in answer["choices"][0]) is (version == "0.33")
    assert ("tool_calls" in answer["choices"][0]["message"]) is (version == "0.31")
    assert (answer["system_fingerprint"] or "").startswith("" if version == "0.31" else f"vllm-{version}.0-")
    assert ({"prompt_text", "ec_transfer_params", "metrics"} <= answer.keys()) is (version != "0.31")


@pytest.mark.parametrize("version", ["0.31", "0.32", "0.33"])
def test_the_version_is_answered(version: Any) -> None:
    with simulator.running(backend="vllm", vllm_version=version) as engine:
        assert httpx.get(engine.url + "/version", trust_env=False, verify=False).json() == {"version": f"{version}.0"}
        assert httpx.get(engine.url + "/server_info", trust_env=False, verify=False).json().keys() == {
            "vllm_config", "vllm_env", "system_env",
        }  # fmt: skip


def test_the_newest_version_is_the_default(engine: Engine) -> None:
    assert engine.config.vllm_version == "0.33"
    with pytest.raises(ValueError, match=r"vllm_version must be one of 0.31, 0.32, 0.33, got '0.30'"):
        Engine(backend="vllm", vllm_version="0.30")


@pytest.mark.parametrize("prompt", [[5, 6], "hi", [[5, 6], [7]], ["hi", "ho"]])
def test_completions_of_text_and_of_tokens(engine: Engine, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 3, "n": 2, "logprobs": 2, "return_token_ids": True, "prompt_logprobs": 1}
    answer = ask(engine, COMPLETIONS, body)
    asked = prompt if isinstance(prompt[0], list) or (isinstance(prompt, list) and prompt[0] == "hi") else [prompt]
    ids = [engine.tokenizer.encode(one) if isinstance(one, str) else one for one in asked]
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(ids)))
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == [one for one in ids for _ in range(2)]
    for choice, sample in zip(answer["choices"], engine.last.samples, strict=True):
        assert choice["token_ids"] == sample.token_ids.tolist()
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(sample.logprobs.tolist(), rel=1e-6)
        assert len(choice["prompt_logprobs"]) == len(sample.prompt_ids)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_text_mode_names_no_token_ids(engine: Engine) -> None:
    body = {"token_ids": [1], "sampling_params": {"max_tokens": 2, "logprobs": 1}, "output_mode": "text"}
    answer = ask(engine, GENERATE, body)
    choice = answer["choices"][0]
    assert answer["output_mode"] == "text"
    assert choice["text"] == engine.tokenizer.decode(choice["token_ids"])
    assert "token_id" not in choice["logprobs"]["content"][0]


def test_requests_are_aborted_by_id_over_the_public_route() -> None:
    with simulator.running(backend="vllm") as engine:
        answer = httpx.post(
            engine.url + "/inference/v1/abort_requests", json={"request_ids": ["x"]}, trust_env=False, verify=False
        )
        assert (answer.status_code, answer.content) == (200, b"")
        assert ask(engine, "/inference/v1/abort_requests", {}, 400)["error"]["type"] == "Bad Request"


def test_an_adapter_that_was_not_loaded_is_not_unloaded() -> None:
    with simulator.running(backend="vllm", lora=False) as engine:
        adapter = {"lora_name": "x", "lora_path": "/nope"}
        assert ask(engine, "/v1/load_lora_adapter", adapter, 500)["error"]["type"] == "InternalServerError"
        assert ask(engine, "/v1/unload_lora_adapter", adapter, 404)["error"]["type"] == "NotFoundError"
