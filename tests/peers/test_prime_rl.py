"""prime-rl's teacher scores beside those of its own function, which needs `PRIME_RL_DIR`, a checkout of it."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openai
import pydantic
import pytest

from dynamo_tito import simulator
from dynamo_tito.integrations import prime_rl
from dynamo_tito.simulator import Engine
from dynamo_tito.simulator.model import Model
from support.dynamo_stack import DynamoStack
from support.qwen import VOCAB_SIZE

IDS = [5, 900, 17, 17, 3, 42, *range(300, 340)]

#: The server, and the route over which ours asks it.
SERVERS: dict[str, tuple[dict[str, Any], Any]] = {
    "prime": ({"backend": "prime"}, "vllm_generate"),
    "vllm-0.31": ({"backend": "vllm", "vllm_version": "0.31"}, "vllm_generate"),
    "vllm-0.32": ({"backend": "vllm", "vllm_version": "0.32"}, "vllm_generate"),
    "dynamo": ({"backend": "dynamo"}, "vllm_generate"),
    "dynamo-chat": ({"backend": "dynamo"}, "dynamo_chat"),
    "sglang": ({"backend": "sglang"}, "sglang_generate"),
}


class Entry(pydantic.BaseModel):
    logprob: float


class Response(pydantic.BaseModel):
    """The field of vLLM's class that theirs reads."""

    prompt_logprobs: list[dict[int, Entry] | None] | None = None


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their module. It takes the class of the answer from vLLM, which this environment does not have."""
    if "PRIME_RL_DIR" not in os.environ:
        pytest.skip("PRIME_RL_DIR says where a checkout of prime-rl is")
    checkout = Path(os.environ["PRIME_RL_DIR"])
    monkeypatch.syspath_prepend(checkout / "packages/prime-rl-configs/src")
    monkeypatch.syspath_prepend(checkout / "src")
    name = "vllm"
    for part in ("", ".entrypoints", ".scale_out", ".token_in_token_out", ".protocol"):
        name += part
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[name], "GenerateResponse", Response, raising=False)
    return importlib.import_module("prime_rl.utils.client")


def served(server: str) -> Any:
    return simulator.running(vocab_size=VOCAB_SIZE, **SERVERS[server][0])


def ask(function: Callable[..., Any], url: str, model: str, **arguments: Any) -> list[float]:
    async def main() -> list[float]:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            scores: list[float] = await function(client, model, IDS, **arguments)
            return scores

    return asyncio.run(main())


def score(function: Callable[..., Any], engine: Engine, **arguments: Any) -> int:
    """How many scores are wrong."""
    truth = engine.model.score(np.array(IDS), version=engine.admin.weights).logprobs
    return wrong(ask(function, engine.url, engine.config.model, **arguments), truth)


def wrong(values: list[float], truth: Any) -> int:
    """How many tokens have another log-probability than the engine computed; the first must be 0.0."""
    assert len(values) == len(IDS)
    assert values[0] == 0.0
    return int(np.count_nonzero(np.abs(np.array(values[1:]) - truth[1:]) > 1e-6))


@pytest.mark.parametrize("server", SERVERS)
def test_every_teacher_number_is_right(server: str) -> None:
    with served(server) as engine:
        assert score(prime_rl.prefill_logprobs, engine, transport=SERVERS[server][1]) == 0


@pytest.mark.parametrize("server", SERVERS)
def test_installed_every_number_is_right_where_theirs_is(server: str, theirs: Any) -> None:
    options, transport = SERVERS[server]
    own = theirs.prefill_logprobs
    with served(server) as engine:
        with prime_rl.install(backend=options["backend"], transport=transport):
            assert theirs.prefill_logprobs is not own
            assert score(theirs.prefill_logprobs, engine) == 0
        assert theirs.prefill_logprobs is own
        if options["backend"] == "sglang":  # has no such route
            with pytest.raises(openai.NotFoundError):
                score(own, engine)
        elif options["backend"] == "dynamo":  # lists alternatives in no order, and theirs takes the first
            assert score(own, engine) > 0
        else:
            assert score(own, engine) == 0


@pytest.mark.skipif("DYNAMO_DIR" not in os.environ, reason="DYNAMO_DIR says where a real Dynamo is")
def test_on_a_real_dynamo_theirs_is_wrong_without_a_sign(theirs: Any) -> None:
    with DynamoStack(Path(os.environ["DYNAMO_DIR"])) as stack:
        own, ours = (ask(call, stack.url, stack.model) for call in (theirs.prefill_logprobs, prime_rl.prefill_logprobs))
        events = [event for event in stack.workers[0].events() if event["event"] == "sampled"]
    (version,) = {choice["version"] for event in events for choice in event["choices"]}
    truth = Model().score(np.array(IDS), version=version).logprobs
    assert wrong(ours, truth) == 0
    assert wrong(own, truth) > 0
