"""slime's and miles' ``Sample``: their fields as of slime 624b824 and miles 31f1ca9.

Where a checkout is given (``SLIME_DIR``, ``MILES_DIR``), their own class as well.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.integrations import _samples, miles, slime
from dynamo_tito.rollout import sample_of
from dynamo_tito.simulator import Fault
from support.frameworks import checkout
from support.trajectories import LAYERS, PROMPT, TOP_K, conversation, same_values, turn

ARGS = SimpleNamespace(num_layers=LAYERS, moe_router_topk=TOP_K, sglang_speculative_algorithm=None)


class Tokenizer:
    """What a generate function asks of a tokenizer."""

    def __init__(self, _: Any = None) -> None:
        self.tokenizer = self

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert (text, add_special_tokens) == ("a b", False)
        return [*PROMPT]

    def decode(self, ids: list[int]) -> str:
        return "".join(f"<{token}>" for token in ids)


@dataclass
class Sample:
    """The fields of both, and their rule: a row for each token but the last one."""

    class Status(Enum):
        PENDING = "pending"
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"

    prompt: Any = ""
    tokens: list[int] = field(default_factory=list)
    response: str = ""
    response_length: int = 0
    loss_mask: list[int] | None = None
    rollout_log_probs: list[float] | None = None
    rollout_routed_experts: Any = None
    weight_versions: list[str] = field(default_factory=list)
    status: Status = Status.PENDING
    multimodal_inputs: Any = None
    session_id: str | None = None
    routing_key: str | None = None

    def append_response_tokens(self, args: Any, *, tokens: Any, log_probs: Any, meta_info: Any, **rest: Any) -> None:
        """As slime's: rows are joined at their start, and must end at the last token but one."""
        assert rest == {"trainable": True, "text": rest["text"]}
        self.tokens = [*self.tokens, *tokens]
        self.response += rest["text"] or ""
        self.response_length += len(tokens)
        self.loss_mask = [*(self.loss_mask or []), *[1] * len(tokens)]
        self.rollout_log_probs = [*(self.rollout_log_probs or []), *log_probs]
        if (rows := meta_info.get("routed_experts")) is not None:
            start = meta_info["routed_experts_start_len"]
            rows = np.asarray(rows, np.int32).reshape(
                len(self.tokens) - 1 - start, args.num_layers, args.moe_router_topk
            )
            if start:
                assert len(self.rollout_routed_experts) >= start
                rows = np.concatenate([self.rollout_routed_experts[:start], rows])
            self.rollout_routed_experts = rows
        self.update_from_meta_info(args, meta_info)

    def update_from_meta_info(self, _: Any, meta_info: Any) -> None:
        reasons = {"length": "truncated", "abort": "aborted", "stop": "completed"}
        self.status = self.Status(reasons[meta_info["finish_reason"]["type"]])
        if "weight_version" in meta_info:
            self.weight_versions.append(meta_info["weight_version"])

    def validate(self) -> None:
        """As miles'."""
        assert self.loss_mask is None or len(self.loss_mask) == self.response_length
        assert self.rollout_log_probs is None or len(self.rollout_log_probs) == self.response_length
        assert self.rollout_routed_experts is None or len(self.rollout_routed_experts) == len(self.tokens) - 1


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """A module that only the framework has."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or ModuleType(path))
    vars(sys.modules[name]).update(contents)


@pytest.fixture(params=["facts", "their own class"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """slime's ``Sample``."""
    if request.param != "facts":
        return checkout("SLIME_DIR", "slime.utils.types").Sample
    fake(monkeypatch, "slime.utils.types", Sample=Sample)
    return Sample


@pytest.fixture(params=["facts", "their own class"])
def miles_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """miles' ``Sample``."""
    if request.param != "facts":
        return checkout("MILES_DIR", "miles.utils.types").Sample
    fake(monkeypatch, "miles.utils.types", Sample=Sample)
    return Sample


def test_slime_holds_the_rows_of_all_tokens_but_the_last(kind: Any) -> None:
    sample = kind(tokens=[*PROMPT])
    completion = turn(3, width="uint16")
    slime.append(ARGS, sample, completion, text="abc")
    assert sample.tokens == [*PROMPT, 100, 101, 102]
    assert (sample.response_length, sample.response, sample.status.value) == (3, "abc", "completed")
    assert completion.routed_experts is not None
    assert completion.logprobs is not None
    assert np.asarray(sample.rollout_routed_experts).tolist() == completion.routed_experts.array.tolist()
    assert sample.rollout_log_probs == completion.logprobs.tolist()
    assert sample.weight_versions == ["step_7"]
    same_values(slime.from_sample(sample, final_row="repeat"), sample_of(PROMPT, completion))


def test_slime_reads_the_base64_that_we_write(kind: Any) -> None:
    """The wire's own form, through slime's decoder."""
    completion = turn(3)
    info = slime.meta_info(completion, prompt_len=5)
    assert completion.routed_experts is not None
    rows = completion.routed_experts.array
    assert base64.b64decode(info["routed_experts"]) == rows.astype("<i4").tobytes()
    assert slime.decode_rows(info["routed_experts"], num_layers=LAYERS, top_k=TOP_K).tolist() == rows.tolist()
    with pytest.raises(ValueError, match="no rows of 3 layers"):
        slime.decode_rows(info["routed_experts"], num_layers=3, top_k=TOP_K)
    if kind is Sample:
        return
    sample = kind(tokens=[*PROMPT])
    sample.append_response_tokens(ARGS, tokens=[100, 101, 102], log_probs=[-1.0] * 3, meta_info=info)
    assert sample.rollout_routed_experts.tolist() == rows.tolist()


def test_a_conversation_as_slimes_sample_and_back(kind: Any) -> None:
    pytest.importorskip("torch")
    held = conversation()
    sample = slime.to_sample(held.sample, index=3) if kind is not Sample else slime.to_sample(held.sample)
    check(sample, held)
    same_values(slime.from_sample(sample, final_row="spread"), held.sample)
    if kind is not Sample:
        sample._validate_response_metadata_lengths()
        args = SimpleNamespace(num_layers=LAYERS, moe_router_topk=TOP_K)
        validate = checkout("SLIME_DIR", "slime.observability.rollout_data_utils")
        validate.validate_rollout_routed_experts_for_replay([sample.rollout_routed_experts], args)


def test_a_conversation_as_miles_sample_and_back(miles_kind: Any) -> None:
    held = conversation()
    sample = miles.to_sample(held.sample)
    assert isinstance(sample, miles_kind)
    check(sample, held)
    assert sample.rollout_routed_experts.dtype == np.int32
    same_values(miles.from_sample(sample, final_row="spread"), held.sample)


def check(sample: Any, held: Any) -> None:
    start = int(held.mask.argmax())
    assert sample.tokens == held.token_ids.tolist()
    assert sample.response_length == len(held.mask) - start
    assert sample.loss_mask == held.mask[start:].astype(int).tolist()
    assert sample.rollout_log_probs == np.where(held.mask, held.logprobs, 0.0)[start:].tolist()
    assert np.asarray(sample.rollout_routed_experts).tolist() == held.rows.tolist()
    assert sample.weight_versions == ["step_7", "step_8"]


def test_miles_reads_the_base64_that_we_write() -> None:
    endpoint = checkout("MILES_DIR", "miles.rollout.generate_utils.generate_endpoint_utils")
    completion = turn(3)
    assert completion.routed_experts is not None
    rows = endpoint.get_routed_experts_from_response(ARGS, {"meta_info": slime.meta_info(completion, prompt_len=5)}, 7)
    assert rows.tolist() == completion.routed_experts.array.tolist()


def test_rows_that_are_missing_are_refused_or_left_for_the_next_answer(kind: Any, miles_kind: Any) -> None:
    short = turn(3)
    assert short.routed_experts is not None
    cut = tito.RoutedExperts(short.routed_experts.array[:-2], 0, "uint8", complete=True)
    broken = replace(short, routed_experts=cut)
    for append, made in ((slime.append, kind), (miles.append, miles_kind)):
        with pytest.raises(tito.RoutedExpertsError, match="5 rows of routed experts"):
            append(ARGS, made(tokens=[*PROMPT]), broken)
        with pytest.raises(tito.MissingFieldError, match="no log-probabilities"):
            append(ARGS, made(tokens=[*PROMPT]), replace(short, logprobs=None))
    aborted = replace(
        broken,
        routed_experts=replace(cut, complete=False),
        finish_reason="abort",
        finish_reason_raw="abort",
        aborted=True,
    )
    for append, made in ((slime.append, kind), (miles.append, miles_kind)):
        sample = append(ARGS, made(tokens=[*PROMPT]), aborted)
        assert (sample.status.value, sample.rollout_routed_experts) == ("aborted", None)


@pytest.mark.parametrize("backend", ["sglang", "vllm", "dynamo"])
def test_generate_functions_ask_any_server_and_continue(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "slime.rollout.sglang_rollout", GenerateState=Tokenizer)
    fake(monkeypatch, "miles.rollout.base_types", GenerateFnOutput=SimpleNamespace)

    async def both(engine: Any) -> list[Any]:
        args = SimpleNamespace(
            num_layers=4,
            moe_router_topk=2,
            use_rollout_routing_replay=True,
            rollout_max_response_len=8,
            rollout_max_context_len=None,
            tito_base_url=engine.url,
            tito_backend=backend,
            tito_model=None if backend == "sglang" else engine.config.model,
            sglang_speculative_algorithm=None,
        )
        params = {"max_new_tokens": 8, "temperature": 1.0, "skip_special_tokens": False, "no_stop_trim": True}
        found = []
        for name in ("slime", "miles"):
            sample = Sample(prompt="a b")
            engine.inject(Fault(kind="abort", at=3))
            for status in ("aborted", "truncated"):
                if name == "slime":
                    sample = await slime.generate(args, sample, dict(params))
                else:
                    state = SimpleNamespace(tokenizer=Tokenizer())
                    given = SimpleNamespace(args=args, sample=sample, sampling_params=dict(params), state=state)
                    sample = (await miles.generate(given)).samples
                assert sample.status.value == status
            found.append(sample)
            for key in [key for key in _samples._connections if key[0] == engine.url]:
                await _samples._connections.pop(key).aclose()
        return found

    with simulator.running(backend=backend, prompt_start="trim") as engine:
        for number, sample in enumerate(asyncio.run(both(engine))):
            asked = [record.samples[0] for record in engine.requests if record.samples][2 * number : 2 * number + 2]
            assert [len(truth.token_ids) for truth in asked] == [3, 5]
            assert sample.tokens == [*PROMPT, *asked[0].token_ids.tolist(), *asked[1].token_ids.tolist()]
            rows = np.concatenate([asked[0].routed_experts, asked[1].routed_experts[len(asked[0].routed_experts) :]])
            assert sample.rollout_routed_experts.tolist() == rows.tolist()
            logprobs = np.concatenate([truth.logprobs for truth in asked])
            assert np.allclose(sample.rollout_log_probs, logprobs, rtol=0, atol=1e-6)
            assert sample.response == "".join(f"<{token}>" for token in sample.tokens[5:])


@pytest.mark.parametrize("made", [slime, miles], ids=["slime", "miles"])
def test_without_the_framework_the_error_names_what_to_install(made: Any) -> None:
    name = made.__name__.rpartition(".")[2]
    if name in sys.modules:
        pytest.skip("its checkout is there")
    with pytest.raises(ImportError, match=f"install {name} from its repository"):
        made.to_sample(conversation().sample)
