"""verl's own agent loop, batch and metrics on what we give them."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.integrations import verl
from dynamo_tito.simulator import Fault
from support.frameworks import module
from support.trajectories import PROMPT, conversation, engine_rows, same_values, single, turn

pytestmark = pytest.mark.filterwarnings("ignore")


class Tokenizer:
    """What an agent loop asks of a tokenizer."""

    padding_side = "right"

    def apply_chat_template(self, *_: Any, **__: Any) -> list[int]:
        return [*PROMPT]

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def single_turn_loop(server: Any) -> Any:
    omegaconf = module("omegaconf")
    loops = module("verl.experimental.agent_loop.agent_loop")
    config = omegaconf.OmegaConf.create(
        {
            "actor_rollout_ref": {
                "rollout": {"prompt_length": 16, "response_length": 16, "multi_turn": {"tool_config_path": None}},
                "model": {"path": "none", "tokenizer_path": "none"},
            },
            "data": {"tool_config_path": None, "apply_chat_template_kwargs": {}},
        }
    )
    return module("verl.experimental.agent_loop.single_turn_agent_loop").SingleTurnAgentLoop(
        trainer_config=loops.DictConfigWrap(config),
        server_manager=server,
        tokenizer=Tokenizer(),
        processor=None,
        dataset_cls=module("verl.utils.dataset.rl_dataset").RLHFDataset,
        data_config=loops.DictConfigWrap(config.data),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "vllm"},
        {"backend": "dynamo", "prompt_start": "trim", "num_experts": 512},
        {"backend": "sglang"},
    ],
    ids=lambda settings: settings["backend"],
)
@pytest.mark.parametrize("cut", [None, 3], ids=["whole", "resumed"])
def test_their_agent_loop_samples_from_any_server(settings: dict[str, Any], cut: int | None) -> None:
    async def roll(engine: Any) -> Any:
        options: dict[str, Any] = {"num_layers": 4, "top_k": 2} if settings["backend"] == "sglang" else {}
        server = verl.ServerClient(
            base_url=engine.url, backend=settings["backend"], model=engine.config.model, pause=0, **options
        )
        # As it reaches an actor.
        server = pickle.loads(pickle.dumps(server))
        loop = single_turn_loop(server)
        try:
            params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True, "max_tokens": 8}
            return await loop.run(params, raw_prompt=[{"role": "user", "content": "a"}])
        finally:
            await server.aclose()

    module("verl")
    with simulator.running(**settings) as engine:
        if cut is not None:
            engine.inject(Fault(kind="abort", at=cut))
        output = asyncio.run(roll(engine))
        samples = [record.samples[0] for record in engine.requests if record.samples]
        ids = [token for sample in samples for token in sample.token_ids.tolist()]
        assert output.prompt_ids == PROMPT
        assert output.response_ids == ids
        assert len(ids) == 8
        assert output.response_mask == [1] * 8
        logprobs = np.concatenate([sample.logprobs for sample in samples])
        assert np.allclose(output.response_logprobs, logprobs, rtol=0, atol=1e-6)
        rows = np.concatenate(
            [samples[0].routed_experts, *(s.routed_experts[-len(s.token_ids) :] for s in samples[1:])]
        )
        assert output.routed_experts.dtype == np.int16
        assert output.routed_experts.tolist() == rows.tolist()

        # Their batch: int16 over all tokens, the last one zeros.
        columns = output.as_dict()
        assert columns["routed_experts"].shape == (13, 4, 2)
        assert columns["routed_experts"][:-1].tolist() == rows.tolist()
        assert not columns["routed_experts"][-1].any()


def test_their_metrics_count_the_engines_rows() -> None:
    torch = module("torch")
    held = conversation()
    columns = verl.agent_loop_output(held.sample, reward_score=1.5).as_dict()
    start = int(held.mask.argmax())
    assert columns["prompts"].tolist() == held.token_ids[:start].tolist()
    assert columns["responses"].tolist() == held.token_ids[start:].tolist()
    assert columns["response_mask"].tolist() == held.mask[start:].astype(int).tolist()
    expected = np.where(held.mask, held.logprobs, 0.0)[start:].astype(np.float32)
    assert columns["rollout_log_probs"].numpy().tolist() == expected.tolist()
    assert columns["routed_experts"][:-1].tolist() == held.rows.tolist()

    counts = module("verl.trainer.ppo.metric_utils")._compute_rollout_moe_load_counts(
        columns["routed_experts"][None], columns["response_mask"][None], 251
    )
    # Their counts leave the last sampled token out, which has no row.
    sampled = held.rows[np.flatnonzero(held.mask)[:-1]]
    assert counts.tolist() == [np.bincount(sampled[:, layer].ravel(), minlength=251).tolist() for layer in range(2)]
    assert torch.equal(columns["rm_scores"], torch.tensor([0.0] * 8 + [1.5]))


def test_there_and_back() -> None:
    module("verl")
    completion = turn(width="uint16")
    output = verl.token_output(completion, prompt_len=len(PROMPT))
    assert output.extra_fields == {"global_steps": 7, "min_global_steps": 7, "max_global_steps": 7}
    again = verl.from_token_output(output, prompt_len=len(PROMPT))
    assert again.token_ids.tolist() == completion.token_ids.tolist()
    assert again.logprobs is not None
    assert completion.logprobs is not None
    assert again.logprobs.tolist() == completion.logprobs.tolist()
    assert again.routed_experts is not None
    assert completion.routed_experts is not None
    assert again.routed_experts.array.tolist() == completion.routed_experts.array.tolist()
    assert (again.finish_reason, again.aborted) == ("stop", False)
    for sample in (conversation().sample, single()):
        back = verl.from_agent_loop_output(verl.agent_loop_output(sample), final_row="spread")
        same_values(back, sample)


def test_what_verl_cannot_hold_is_refused() -> None:
    module("verl")
    wide = turn(width="int32")
    assert wide.routed_experts is not None
    wide.routed_experts.array[2, 1, 1] = 40_000
    with pytest.raises(tito.RoutedExpertsError, match="expert 40000 does not fit int16"):
        verl.token_output(wide, prompt_len=len(PROMPT))


def test_an_abort_is_returned_where_nothing_resumes() -> None:
    module("verl")

    async def ask(engine: Any) -> Any:
        server = verl.ServerClient(base_url=engine.url, backend="vllm", model=None, resume=False)
        try:
            return await server.generate("a", prompt_ids=PROMPT, sampling_params={"logprobs": True, "max_tokens": 8})
        finally:
            await server.aclose()

    with simulator.running(backend="vllm") as engine:
        engine.inject(Fault(kind="abort", at=3))
        output = asyncio.run(ask(engine))
        assert (len(output.token_ids), output.stop_reason) == (3, "aborted")
        assert output.routed_experts.tolist() == engine_rows(engine).tolist()
