"""AReaL's own response type, generation parameters and workflow on our engine."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import connect, simulator
from dynamo_tito.integrations import areal
from dynamo_tito.integrations.slime import meta_info
from dynamo_tito.rollout import sample_of
from dynamo_tito.simulator import Fault
from support.frameworks import module
from support.trajectories import PROMPT, conversation, same_values, turn

pytestmark = pytest.mark.filterwarnings("ignore")


class Inner:
    """What AReaL's engine holds."""

    def __init__(self) -> None:
        self.version = 2

    def get_version(self) -> int:
        self.version += 1
        return self.version

    def pause(self) -> str:
        return "paused"


@pytest.mark.parametrize("cut", [None, 2], ids=["whole", "resumed"])
def test_agenerate(cut: int | None) -> None:
    structs = module("areal.api.io_struct")

    async def ask(engine: Any, metadata: dict[str, Any]) -> Any:
        async with connect(engine.url, backend="sglang", model=None, num_layers=4, top_k=2) as client:
            ours = areal.Engine(client, Inner(), pause=0)
            assert ours.pause() == "paused"
            gconfig = structs.GenerationHyperparameters(max_new_tokens=6, stop_token_ids=[31_001], temperature=0.5)
            return await ours.agenerate(structs.ModelRequest(input_ids=[*PROMPT], gconfig=gconfig, metadata=metadata))

    with simulator.running(backend="sglang") as engine:
        if cut is not None:
            engine.inject(Fault(kind="abort", at=cut))
        response = asyncio.run(ask(engine, {"return_routed_experts": True}))
        samples = [record.samples[0] for record in engine.requests if record.samples]
        assert response.input_tokens == PROMPT
        assert response.output_tokens == [token for sample in samples for token in sample.token_ids.tolist()]
        assert (response.input_len, response.output_len, response.stop_reason) == (5, 6, "length")
        # A new version of the weights between the two answers; the server names none of its own.
        assert response.output_versions == ([3] * 6 if cut is None else [3] * cut + [4] * (6 - cut))
        rows = np.concatenate(
            [samples[0].routed_experts, *(s.routed_experts[-len(s.token_ids) :] for s in samples[1:])]
        )
        assert response.routed_experts.shape == (10, 8)
        assert response.routed_experts.dtype == np.int32
        assert response.routed_experts.tolist() == rows.reshape(10, 8).tolist()
        sent = engine.requests[-1].json()["sampling_params"]
        assert (sent["stop_token_ids"], sent["temperature"]) == ([31_001], 0.5)

    with (
        simulator.running(backend="sglang", routed_experts=False) as engine,
        pytest.raises(tito.RoutedExpertsError, match="the server sent none"),
    ):
        asyncio.run(ask(engine, {"return_routed_experts": True}))


def test_rows_are_those_that_their_own_parser_reads() -> None:
    """The same answer of SGLang, read by AReaL and by us."""
    backend = module("areal.engine.sglang_remote").SGLangBackend()
    with (
        simulator.running(backend="sglang") as engine,
        tito.TitoClient(engine.url, transport="sglang_generate", model=None, num_layers=4, top_k=2) as client,
    ):
        completion = client.generate(PROMPT, sampling_params={"max_tokens": 4})
        truth = engine.requests[-1].samples[0]
    response = areal.model_response(completion, PROMPT, version=3)
    entries = [[logprob, token, None] for logprob, token in zip(truth.logprobs, truth.token_ids.tolist(), strict=True)]
    info = meta_info(completion, prompt_len=5) | {"output_token_logprobs": entries}
    theirs = backend.parse_generation_response({"meta_info": info})
    assert theirs.output_tokens == response.output_tokens
    assert theirs.routed_experts.tolist() == response.routed_experts.tolist()


def test_tensors_are_those_of_their_workflow() -> None:
    """The dictionary of ``RLVRWorkflow.arun_episode`` for the same response."""
    torch = module("torch")
    module("areal.api.io_struct")
    response = areal.model_response(turn(), PROMPT, version=3)
    assert response.output_versions == [7] * 4
    ours = areal.tensors(sample_of(PROMPT, turn()), reward=0.5)
    theirs = {
        "input_ids": torch.tensor(response.input_tokens + response.output_tokens, dtype=torch.int32),
        "loss_mask": torch.tensor([0] * 5 + [1] * 4, dtype=torch.int32),
        "logprobs": torch.tensor([0.0] * 5 + response.output_logprobs, dtype=torch.float32),
        "versions": torch.tensor([-1] * 5 + response.output_versions, dtype=torch.int32),
        "attention_mask": torch.ones(9, dtype=torch.bool),
        "rewards": torch.tensor(0.5, dtype=torch.float32),
    }
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor.unsqueeze(0)), name
    # Their batches are padded to one length.
    padded = module("areal.utils.data").concat_padded_tensors([ours, areal.tensors(conversation().sample, reward=1.0)])
    assert padded["input_ids"].shape == (2, 14)
    again = areal.from_tensors({name: tensor[:1] for name, tensor in padded.items()})
    plain = sample_of(PROMPT, turn(experts=False))
    same_values(again, plain)
    assert [span.version for span in again.weight_versions] == ["7"]


def test_there_and_back() -> None:
    module("areal.api.io_struct")
    completion = turn()
    response = areal.model_response(completion, PROMPT, version=3)
    again = areal.from_model_response(response, num_layers=2)
    assert again.token_ids.tolist() == completion.token_ids.tolist()
    assert again.routed_experts is not None
    assert completion.routed_experts is not None
    assert again.routed_experts.array.tolist() == completion.routed_experts.array.tolist()
    assert again.weight_versions == [{"version": "7", "start": 0, "end": 4}]
    with pytest.raises(tito.RoutedExpertsError, match="num_layers"):
        areal.from_model_response(response)
