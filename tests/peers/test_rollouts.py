"""verifiers' rollouts over every server: its trace holds what the engine recorded."""

from __future__ import annotations

import asyncio
import importlib.metadata
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verifiers.v1.clients import TrainClientConfig
from verifiers.v1.serve.delta import dump, pack, unpack

from dynamo_tito import simulator
from dynamo_tito.integrations import renderers, verifiers
from peers.conversations import converse, judge_trace, truth_of
from support.qwen import VOCAB_SIZE

ROOT = Path(__file__).parents[2]

#: Server, its version, what it does with a start, and the transport.
SERVERS: dict[str, tuple[dict[str, Any], str]] = {
    "vllm-0.31": ({"backend": "vllm", "vllm_version": "0.31"}, "vllm_generate"),
    "vllm-0.32": ({"backend": "vllm", "vllm_version": "0.32"}, "vllm_generate"),
    "vllm-0.33": ({"backend": "vllm", "vllm_version": "0.33"}, "vllm_generate"),
    "prime": ({"backend": "prime"}, "vllm_generate"),
    "dynamo-generate": ({"backend": "dynamo"}, "vllm_generate"),
    "dynamo-chat": ({"backend": "dynamo"}, "dynamo_chat"),
    "dynamo-chat-ignore": ({"backend": "dynamo", "prompt_start": "ignore"}, "dynamo_chat"),
    "dynamo-chat-trim": ({"backend": "dynamo", "prompt_start": "trim"}, "dynamo_chat"),
    "dynamo-completions": ({"backend": "dynamo", "prompt_start": "trim"}, "dynamo_completions"),
    "prime-chat": ({"backend": "prime"}, "prime_chat_tokens"),
    "sglang": ({"backend": "sglang"}, "sglang_generate"),
}


def sampling(number: int) -> dict[str, Any]:
    """Turns are cut by length, and end by themselves where the engine says so."""
    return {"max_tokens": 6 + number % 3, "temperature": 1.0}


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize("turns", [1, 3, 10])
@pytest.mark.parametrize("server", SERVERS)
def test_the_trace_is_what_the_engine_recorded(server: str, turns: int) -> None:
    settings, transport = SERVERS[server]
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.1, seed=turns, **settings) as engine:
        config = verifiers.TrainClientConfig(
            base_url=engine.url + "/v1",
            renderer_model_name="built-here",
            renderer_transport=transport,
            require_routed_experts=True,
            num_layers=engine.config.num_layers,
            top_k=engine.config.top_k,
        )
        with verifiers.install():
            trace = asyncio.run(converse(config, engine.config.model, turns, sampling))
        samples = [record.samples[0] for record in engine.requests if record.samples]
        assert len(samples) == turns
        judge_trace(trace, *truth_of(samples))


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize("server", ["vllm-0.33", "prime", "dynamo-chat"])
def test_their_own_client_and_configuration(server: str) -> None:
    settings, transport = SERVERS[server]
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.1, seed=7, **settings) as engine:
        config = TrainClientConfig(base_url=engine.url + "/v1", renderer_model_name="built-here")
        with renderers.install(transport=transport, require_routed_experts=True):
            trace = asyncio.run(converse(config, engine.config.model, 3, sampling))
        judge_trace(trace, *truth_of([record.samples[0] for record in engine.requests if record.samples]))


@pytest.mark.usefixtures("tokenizer")
def test_a_trace_travels_in_their_form() -> None:
    if importlib.metadata.version("verifiers") == "0.4.0":
        pytest.skip("token streams are lists before verifiers 0.4.1")
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE, seed=2) as engine, verifiers.install():
        config = TrainClientConfig(base_url=engine.url + "/v1", renderer_model_name="built-here")
        trace = asyncio.run(converse(config, engine.config.model, 3, sampling))
    for node in trace.nodes:
        wire = unpack(pack(dump(node, context={"token_arrays": True})))
        assert wire["token_ids"]["__nd__"]
        back = type(node).model_validate(wire)
        for name in ("token_ids", "mask", "logprobs", "routed_experts"):
            one, other = np.asarray(getattr(node, name)), np.asarray(getattr(back, name))
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@pytest.mark.usefixtures("tokenizer")
def test_a_configuration_pickles() -> None:
    config = verifiers.TrainClientConfig(base_url="http://engine/v1", renderer_transport="dynamo_chat")
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(TypeError, match="transport"):
        verifiers.install(transport="dynamo_chat")


def test_the_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.drop_in"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(
        r"renderers: '.+'\n +\d+ tokens, routed experts \[\d+, 4, 2\]\n"
        r"verifiers: 3 turns, (\d+) tokens, \d+ of them sampled, routed experts \[(\d+), 4, 2\]\n",
        done.stdout,
    )
    assert said is not None, done.stdout
    assert said[1] == said[2]
