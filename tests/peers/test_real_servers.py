"""verifiers' rollouts over a real vLLM (`VLLM_DIR`) and Dynamo (`DYNAMO_DIR`): the trace holds what they computed."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamo_tito.integrations import verifiers
from dynamo_tito.simulator.model import Model
from peers.conversations import converse, judge_trace, truth_of
from support.dynamo_stack import DynamoStack
from support.vllm_live import TIE, TOLERANCE
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

TURNS = [1, 3, 10]
#: The vocabulary of the models that the real vLLM serves.
SMALL = 512


def sampling(number: int) -> dict[str, Any]:
    return {"max_tokens": 5 + number % 3, "temperature": 1.0}


@pytest.mark.skipif("VLLM_DIR" not in os.environ, reason="VLLM_DIR says where a real vLLM is")
@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize("tokenizer", [SMALL], indirect=True)
def test_vllm() -> None:
    directory = Path(os.environ["VLLM_DIR"])
    with VllmServer(directory, "moe_a", routed=True) as server, verifiers.install(require_routed_experts=True):
        config = verifiers.TrainClientConfig(base_url=server.url + "/v1", renderer_model_name="built-here-small")
        traces = [asyncio.run(converse(config, MODEL, turns, sampling, tools=turns == 1)) for turns in TURNS]
    truth = Truth(directory)
    try:
        compared = 0
        for turns, trace in zip(TURNS, traces, strict=True):
            (branch,) = trace.branches
            ids = [int(token) for token in branch.token_ids]
            mask = np.asarray(branch.sampled_mask)
            assert np.count_nonzero(np.diff(mask.astype(int)) == 1) == turns
            forward = truth.one("moe_a", ids)
            at = np.flatnonzero(mask)
            if (forward.margins[:-1] >= TIE).all():  # else rounding may have decided
                judge_trace(
                    trace, np.array(ids), mask, forward.logprobs[at - 1, np.array(ids)[at]], forward.experts,
                    tolerance=TOLERANCE,
                )  # fmt: skip
                compared += 1
        assert compared
    finally:
        truth.close()


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.skipif("DYNAMO_DIR" not in os.environ, reason="DYNAMO_DIR says where a real Dynamo is")
def test_dynamo() -> None:
    shape = {"num_experts": 512, "num_layers": 6, "top_k": 3}
    with DynamoStack(Path(os.environ["DYNAMO_DIR"])) as stack, verifiers.install(require_routed_experts=True):
        worker = stack.workers[0]
        for transport in ("dynamo_chat", "vllm_generate"):
            for turns in TURNS:
                worker.control(**shape, chunk=2)
                worker.forget()
                config = verifiers.TrainClientConfig(
                    base_url=stack.url + "/v1", renderer_model_name="built-here", renderer_transport=transport
                )
                trace = asyncio.run(converse(config, stack.model, turns, sampling))
                deadline = time.monotonic() + 60
                while len(events := [event for event in worker.events() if event["event"] == "sampled"]) < turns:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                model = Model(**shape)
                samples = [
                    model.given(event["prompt_ids"], event["choices"][0]["token_ids"],
                                version=event["choices"][0]["version"])
                    for event in events
                ]  # fmt: skip
                judge_trace(trace, *truth_of(samples))
