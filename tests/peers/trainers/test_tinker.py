"""tinker's own types on what we give them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from dynamo_tito import connect, simulator
from dynamo_tito.integrations import tinker
from support.frameworks import module
from support.trajectories import PROMPT, alternatives, conversation, same_values, single, turn

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_sequence_is_read_as_theirs() -> None:
    module("tinker")
    plain = turn(5, experts=False, request_id="r")
    assert plain.logprobs is not None
    completion = dataclasses.replace(plain, top_logprobs=alternatives(plain.token_ids, plain.logprobs, 3))
    sequence = tinker.sampled_sequence(completion, topk=3)
    assert sequence.tokens == plain.token_ids.tolist()
    assert sequence.tokens_np is plain.token_ids
    assert sequence.logprobs == plain.logprobs.astype(np.float32).tolist()
    assert [len(entries) for entries in sequence.topk_logprobs] == [2, 3, 3, 3, 3]
    assert sequence.topk_logprobs[1] == [(101, -2.0), (1101, -2.5), (2101, -3.0)]
    response = tinker.sample_response([completion, plain])
    again, _ = tinker.from_sample_response(response, prompt_len=5)
    assert again.token_ids.tolist() == plain.token_ids.tolist()
    assert again.logprobs is not None
    assert again.logprobs.tolist() == plain.logprobs.tolist()
    with pytest.raises(ValueError, match="ended with 'abort'"):
        tinker.sampled_sequence(turn(2, finish_reason="abort", aborted=True, finish_reason_raw="abort"))


def test_a_datum_pairs_each_target_with_what_belongs_to_it() -> None:
    types = module("tinker.types")
    held = conversation()
    advantages = np.arange(14, dtype=np.float32)
    datum = tinker.datum(held.sample, advantages=advantages)
    assert isinstance(datum, types.Datum)
    assert datum.model_input.to_ints() == held.token_ids[:-1].tolist()
    inputs = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        "target_tokens": "int64",
        "logprobs": "float32",
        "advantages": "float32",
    }
    for place, token in enumerate(held.token_ids[1:].tolist(), 1):
        assert inputs["target_tokens"][place - 1] == token
        assert inputs["advantages"][place - 1] == (advantages[place] if held.mask[place] else 0.0)
        expected = held.logprobs[place] if held.mask[place] else 0.0
        assert inputs["logprobs"][place - 1] == np.float32(expected)
    same_values(
        tinker.from_datum(datum, mask=held.mask),
        type(held.sample)(held.token_ids, held.mask, held.logprobs, None),
        decimals=False,
    )
    weighted = tinker.datum(held.sample)
    assert tinker.from_datum(weighted).mask.tolist() == held.mask.tolist()
    with pytest.raises(ValueError, match="give mask"):
        tinker.from_datum(datum)
    with pytest.raises(ValueError, match="for 9 tokens"):
        tinker.datum(single(), advantages=advantages)


@pytest.mark.parametrize("backend", ["vllm", "dynamo"])
def test_the_sampling_client_asks_any_server(backend: Any) -> None:
    types = module("tinker.types")

    # Dynamo's chat names alternatives by text alone.
    width = 2 if backend == "vllm" else 0

    async def ask(engine: Any) -> tuple[Any, Any]:
        async with connect(engine.url, backend=backend, model=engine.config.model, experts="skip") as client:
            sampler = tinker.SamplingClient(client)
            prompt = types.ModelInput.from_ints(PROMPT)
            params = types.SamplingParams(max_tokens=4, temperature=0.7, seed=3, stop=[31_000])
            response = await sampler.sample(prompt, 2, params, include_prompt_logprobs=True, topk_sample_logprobs=width)
            return response, await sampler.compute_logprobs(prompt)

    with simulator.running(backend=backend) as engine:
        response, scores = asyncio.run(ask(engine))
        sampled = [sample for record in engine.requests for sample in record.samples if len(sample.token_ids) == 4]
        assert sorted(sequence.tokens for sequence in response.sequences) == sorted(
            sample.token_ids.tolist() for sample in sampled
        )
        for sequence in response.sequences:
            truth = next(sample for sample in sampled if sample.token_ids.tolist() == sequence.tokens)
            assert np.allclose(sequence.logprobs, truth.logprobs, rtol=0, atol=1e-5)
            assert not width or len(sequence.topk_logprobs) == 4
        assert response.prompt_logprobs[0] is None
        assert np.allclose(response.prompt_logprobs[1:], scores[1:], rtol=0, atol=1e-5)
        bodies = [record.json() for record in engine.requests if record.samples]
        assert any("31000" in str(body) for body in bodies)
