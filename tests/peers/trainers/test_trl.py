"""What TRL's own client returns for the same server, and its own parsing of log-probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dynamo_tito import TitoClient, simulator
from dynamo_tito.integrations import trl
from support.frameworks import module
from support.trajectories import PROMPT, alternatives, turn

pytestmark = pytest.mark.filterwarnings("ignore")

OTHER = PROMPT[:3]


def test_the_result_is_that_of_their_client() -> None:
    theirs_of = module("trl.generation.vllm_client").VLLMClient
    with simulator.running(backend="vllm") as engine:
        # The same prompt has the same answer from the embedded engine, whichever route it comes by.
        inner = theirs_of(base_url=engine.url, connection_timeout=60.0)
        with TitoClient(engine.url, model=engine.config.model, experts="skip") as client:
            ours = trl.Client(client, inner)
            assert ours.base_url == engine.url
            for logprobs in (0, None):
                options: dict[str, Any] = {"max_tokens": 5, "logprobs": logprobs}
                one, two = inner.generate([PROMPT, OTHER], **options), ours.generate([PROMPT, OTHER], **options)
                assert one.keys() == two.keys()
                assert one["prompt_ids"] == two["prompt_ids"]
                if logprobs is None:
                    assert two["logprobs"] is two["logprob_token_ids"] is None
                else:
                    check(engine, two)


def check(engine: Any, result: Any) -> None:
    recorded = {len(record.samples[0].prompt_ids): record.samples[0] for record in engine.requests if record.samples}
    for place, prompt in enumerate((PROMPT, OTHER)):
        truth = recorded[len(prompt)]
        assert result["completion_ids"][place] == truth.token_ids.tolist()
        assert [ids[0] for ids in result["logprob_token_ids"][place]] == truth.token_ids.tolist()
        assert np.allclose([values[0] for values in result["logprobs"][place]], truth.logprobs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [2, 3])
def test_alternatives_are_ordered_as_they_order_them(width: int) -> None:
    parse = module("trl.generation.vllm_client").parse_logprobs
    plain = turn(5, experts=False)
    assert plain.logprobs is not None
    top = alternatives(plain.token_ids, plain.logprobs, width)
    entries = [
        {
            "token": f"token_id:{token}",
            "logprob": logprob,
            "top_logprobs": [
                {"token": f"token_id:{name}", "logprob": value}
                for name, value in zip(*(part.tolist() for part in top[place]), strict=True)
            ],
        }
        for place, (token, logprob) in enumerate(zip(plain.token_ids.tolist(), plain.logprobs.tolist(), strict=True))
    ]
    values, names = parse([{"content": entries}])
    result = trl.output([PROMPT], [dataclasses.replace(plain, top_logprobs=top)], logprobs=width)
    assert result["logprobs"] == values
    assert result["logprob_token_ids"] == names
    (back,) = trl.from_output(result)
    assert back.token_ids.tolist() == plain.token_ids.tolist()
    assert back.logprobs is not None
    assert back.logprobs.tolist() == plain.logprobs.tolist()


def test_scores_are_those_of_their_client() -> None:
    client_of = module("trl.generation.vllm_client").VLLMClient
    sequences, starts = [[*PROMPT, 20, 21, 22], [*OTHER, 30]], [5, 3]
    with simulator.running(backend="vllm") as engine:
        inner = client_of(base_url=engine.url, connection_timeout=60.0)
        with TitoClient(engine.url, model=engine.config.model) as client:
            ours = trl.Client(client, inner).get_sequence_logprobs(sequences, starts, top_logprobs=4)
        theirs = inner.get_sequence_logprobs(sequences, starts, top_logprobs=4)
    assert ours.keys() == theirs.keys()
    assert ours["actual_token_ids"] == theirs["actual_token_ids"]
    for name in ("logprobs", "actual_logprobs"):
        for one, two in zip(ours[name], theirs[name], strict=True):
            assert np.allclose(one, two, rtol=0, atol=1e-6), name
    assert ours["logprob_token_ids"] == theirs["logprob_token_ids"]


def test_several_completions_of_a_prompt() -> None:
    module("trl")
    with (
        simulator.running(backend="vllm") as engine,
        TitoClient(engine.url, model=engine.config.model, experts="skip") as client,
    ):
        ours = trl.Client(client)
        result = ours.generate([PROMPT, OTHER], n=3, max_tokens=2, generation_kwargs={"seed": 5})
        assert [len(result[name]) for name in ("prompt_ids", "completion_ids", "logprobs")] == [2, 6, 6]
        prompts = [sample.prompt_ids.tolist() for record in engine.requests for sample in record.samples]
        assert sorted(prompts) == sorted([PROMPT] * 3 + [OTHER] * 3)
        with pytest.raises(TypeError, match="token ids"):
            ours.generate(["a"])  # type: ignore[list-item]
        with pytest.raises(AttributeError, match="give TRL's client as inner"):
            ours.update_named_param  # noqa: B018
