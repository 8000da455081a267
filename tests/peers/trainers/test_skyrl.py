"""SkyRL's own batch conversion on what we give it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from dynamo_tito import connect, simulator
from dynamo_tito.integrations import skyrl
from support.frameworks import module
from support.trajectories import PROMPT, conversation, same_values, single

pytestmark = pytest.mark.filterwarnings("ignore")


class Tokenizer:
    """What a batch conversion and an engine ask of a tokenizer."""

    pad_token_id = 0

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, ids))


def batched(output: Any, rewards: Any) -> Any:
    return module("skyrl.train.dataset.preprocess").convert_prompts_responses_to_batch_tensors(
        Tokenizer(),
        output["prompt_token_ids"],
        output["response_ids"],
        rewards,
        output["loss_masks"],
        output["rollout_logprobs"],
        output["rollout_expert_indices"],
    )


def test_their_batch_has_each_row_at_its_token() -> None:
    held = conversation()
    short = single(sampled=2)
    output = skyrl.generator_output([held.sample, short], [[0.0] * 8 + [1.0], [0.5, 0.5]])
    sequences, attention, _, rewards, masks, logprobs, experts = batched(output, output["rewards"])
    assert sequences.shape == attention.shape == (2, 14)
    for place, sample in enumerate((held.sample, short)):
        real = attention[place].bool()
        assert sequences[place][real].tolist() == sample.token_ids.tolist()
        rows = experts[place][real]
        assert sample.routed_experts is not None
        # What the engine recorded, each at its token; SkyRL's own zeros at the last one.
        assert rows[:-1].tolist() == sample.routed_experts[:-1].tolist()
        assert not rows[-1].any()
        start = int(sample.mask.argmax())
        response = len(sample) - start
        assert masks[place][-response:].tolist() == sample.mask[start:].astype(float).tolist()
        expected = np.where(sample.mask, sample.logprobs, 0.0)[start:].astype(np.float32)
        assert logprobs[place][-response:].tolist() == expected.tolist()
    assert rewards[0][-1] == 1.0


@pytest.mark.parametrize("backend", ["vllm", "dynamo", "sglang"])
def test_the_engine_answers_a_batch(backend: Any) -> None:
    module("skyrl.train.dataset.preprocess")

    class Inner:
        tokenizer = Tokenizer()

        def get_endpoint_url(self) -> str:
            return "http://there"

    async def generate(engine: Any) -> tuple[Any, str]:
        async with connect(engine.url, backend=backend, model=engine.config.model, num_layers=4, top_k=2) as client:
            server = skyrl.InferenceEngine(client, Inner())
            batch = {
                "prompt_token_ids": [PROMPT, PROMPT[:2]],
                "sampling_params": {"max_tokens": 4, "logprobs": 0, "temperature": 1.0},
                "session_ids": ["a", "b"],
                "prompts": None,
            }
            return await server.generate(batch), server.get_endpoint_url()

    with simulator.running(backend=backend, prompt_start="trim") as engine:
        output, url = asyncio.run(generate(engine))
        assert url == "http://there"
        recorded = {len(record.samples[0].prompt_ids): record.samples[0] for record in engine.requests}
        for place, prompt in enumerate((PROMPT, PROMPT[:2])):
            truth = recorded[len(prompt)]
            assert output["response_ids"][place] == truth.token_ids.tolist()
            assert np.allclose(output["response_logprobs"][place], truth.logprobs, rtol=0, atol=1e-6)
            assert np.asarray(output["rollout_expert_indices"][place]).tolist() == truth.routed_experts.tolist()
            assert output["responses"][place] == " ".join(map(str, truth.token_ids.tolist()))
            assert output["stop_reasons"][place] == "length"
        # And on to their trainer.
        columns = {
            "prompt_token_ids": [PROMPT, PROMPT[:2]],
            "response_ids": output["response_ids"],
            "loss_masks": [[1] * 4] * 2,
            "rollout_logprobs": output["response_logprobs"],
            "rollout_expert_indices": output["rollout_expert_indices"],
        }
        experts = batched(columns, [[0.0] * 4] * 2)[-1]
        assert experts[1, 3:-1].tolist() == recorded[2].routed_experts.tolist()


def test_there_and_back() -> None:
    module("skyrl.train.dataset.preprocess")
    samples = [conversation().sample, single(), single(sampled=1)]
    back = skyrl.from_generator_output(skyrl.generator_output(samples, [0.0] * 3), final_row="spread")
    for one, two in zip(back, samples, strict=True):
        same_values(one, two)
        assert one.turns[-1].finish_reason == two.turns[-1].finish_reason
    dense = single(experts=False)
    (again,) = skyrl.from_generator_output(skyrl.generator_output([dense], [0.0]))
    same_values(again, dense)
