"""The embedded engine's answers beside those that a real Dynamo 1.6.1 gave to the same requests, shape for shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine, Fault
from support.shapes import differences

FOLDER = Path(__file__).parents[1] / "data" / "captures"
INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
LISTENERS = {8000: "url", 8010: "url", 8001: "rl_url", 9090: "system_url", 9092: "system_url"}


@dataclass(frozen=True)
class Setup:
    """What the engine behind the recording did that day."""

    settings: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    prepare: Callable[[Engine], None] | None = None
    #: How many times token 1 is the prompt; the index abbreviates prompts of this length.
    prompt_len: int | None = None


def _paused(engine: Engine) -> None:
    engine.admin.pause("keep")


def _two_workers(engine: Engine) -> None:
    engine.join(Engine(world_size=8))
    engine.members[1].system_url = "http://127.0.0.1:1"


def _one_killed(engine: Engine) -> None:
    _two_workers(engine)
    engine.members[1].stopped = True


ABBREVIATED = re.compile(r"\[1, 1, .*1\]")
BARE = {"routed_experts_container": "bare"}
ROOMY = {"max_model_len": 262_400, "routed_experts": False}
SETUPS: dict[str, Setup] = {
    "chat_all_fields": Setup(fault=Fault(kind="finish", message="stop", stop_reason=31997)),
    "chat_named_worker_id_timing": Setup(fault=Fault(kind="finish", stop_reason="</s>")),
    "completions_int_prompt_named_all": Setup(fault=Fault(kind="finish", stop_reason="x")),
    "chat_no_max_tokens": Setup({"default_max_tokens": 6}),
    "chat_sglang_style_routed_experts": Setup(BARE),
    "generate_sglang_re_error": Setup(BARE),
    "chat_uint16_experts": Setup({"num_experts": 512}),
    "generate_uint16": Setup({"num_experts": 512}),
    "chat_text_no_nvext": Setup(),
    "chat_zero_rows": Setup(fault=Fault(kind="wrong_rows", by=-5)),
    "engine_error_finish_after1_chat": Setup(fault=Fault(kind="status", phase="sampled")),
    "engine_error_finish_after1_generate": Setup(fault=Fault(kind="status", phase="sampled")),
    "engine_raise_Cancelled_chat": Setup(fault=Fault(kind="status", status=499)),
    "engine_raise_HttpError422_chat": Setup(fault=Fault(kind="status", status=400, message="Unprocessable Entity")),
    "engine_raise_HttpError422_generate": Setup(fault=Fault(kind="status", status=400)),
    "engine_raise_HttpError503_chat": Setup(fault=Fault(kind="status", status=503)),
    "engine_raise_HttpError503_generate": Setup(fault=Fault(kind="status", status=503)),
    "engine_raise_InvalidArgument_chat": Setup(fault=Fault(kind="status", status=400, message="invalid arg detail")),
    "engine_raise_InvalidArgument_generate": Setup(
        fault=Fault(kind="status", status=400, message="invalid arg detail")
    ),
    "engine_raise_ValueError_chat": Setup(fault=Fault(kind="status", status=400)),
    "engine_get_weight_version": Setup(prepare=lambda engine: engine.admin.name_version("v1")),
    "engine_update_weights_from_disk_missing": Setup(prepare=_paused),
    "engine_update_weights_from_disk_noversion": Setup(prepare=_paused),
    "engine_update_weights_from_disk_ok": Setup(prepare=_paused),
    "engine_update_weights_from_distributed_ok": Setup(prepare=_paused),
    "exact_context_prompt_chat": Setup(ROOMY, prompt_len=262_144),
    "finish_reason_abort": Setup(fault=Fault(kind="abort", at=3)),
    "finish_reason_abort_generate": Setup(fault=Fault(kind="abort", at=3)),
    "finish_reason_cancelled_generate": Setup(fault=Fault(kind="abort", at=3)),
    "finish_reason_content_filter_generate": Setup(fault=Fault(kind="finish", message="content_filter")),
    "finish_reason_eos": Setup(fault=Fault(kind="finish", message="eos")),
    "finish_reason_eos_generate": Setup(fault=Fault(kind="finish", message="eos")),
    "generate_re_bad_dtype": Setup(fault=Fault(kind="status", phase="sampled")),
    "generate_re_int32_dtype": Setup(fault=Fault(kind="status", phase="sampled")),
    "overlong_prompt_chat": Setup(ROOMY, prompt_len=262_145),
    "overlong_prompt_generate": Setup(ROOMY, prompt_len=262_145),
    "overlong_prompt_plus_max_tokens_chat": Setup(ROOMY, prompt_len=262_140),
    "quarantined_chat": Setup(fault=Fault(kind="not_ready")),
    "quarantined_generate": Setup(fault=Fault(kind="not_ready")),
    "rl_workers_two": Setup(prepare=_two_workers),
    "rl_workers_one_killed": Setup(prepare=_one_killed),
    "variant_ignore_unsupported_chat": Setup({"ignore_unsupported_fields": True}),
}

NOT_REPLAYED = {
    "chat_nonfinite_logprobs": "log-probabilities of the hash model are finite",
    "chat_partial_logprobs": "the engine sends log-probabilities of all tokens or of none",
    "engine_control_echo": "a route of the recording's own",
    "frontend_health": "lists instances of two models",
    "generate_model_without_capability": "another engine's model",
    "generate_stream_usage": "recorded as a stream, answered 501: replayed as JSON by the differential test",
    "mocker_chat_engine_data": "another engine",
    "mocker_completions_logprobs": "another engine",
    "mocker_rl_workers": "the same as one worker of rl_workers_two",
    "models": "lists two models",
    "quarantined_models": "another engine's model",
    "quarantined_rl_workers": "the same as one worker of rl_workers_two",
    "rl_workers_no_system_port": "every embedded engine has a system server",
    "rl_workers_other_namespace": "every embedded engine has a system server",
    "system_health": "not ready: the recording's server was set up to say so",
    "system_live": "not ready: the recording's server was set up to say so",
    "system_metadata": "not served",
    "system_metrics": "not served",
    "variant_generate_disabled": "the route is always enabled",
}


def _replayed() -> list[str]:
    names = [name.removesuffix(".json") for name in INDEX if not name.endswith(".sse")]
    return [name for name in names if name.removesuffix(".txt") not in NOT_REPLAYED]


def test_the_lists_name_recordings() -> None:
    recorded = {Path(name).stem for name in INDEX}
    assert set(SETUPS) | set(NOT_REPLAYED) <= recorded
    assert not set(SETUPS) & set(NOT_REPLAYED)
    assert len(_replayed()) > 100


@pytest.mark.parametrize("name", _replayed())
def test_answers_have_the_recorded_shape(name: str) -> None:
    asked = INDEX[f"{name}.json"]
    recorded = (FOLDER / f"{name}.json").read_bytes()
    setup = SETUPS.get(name, Setup())
    with (
        simulator.running(**setup.settings) as engine,
        httpx.Client(base_url=getattr(engine, LISTENERS[asked["port"]]), trust_env=False, verify=False) as client,
    ):
        if setup.fault is not None:
            engine.inject(setup.fault)
        if setup.prepare is not None:
            setup.prepare(engine)
        body = None if asked["body"] == "(none)" else asked["body"]
        if setup.prompt_len is not None:
            body = ABBREVIATED.sub(lambda _: json.dumps([1] * (setup.prompt_len or 0)), asked["body"])
        headers = {} if body is None else {"content-type": "application/json"}
        response = client.request(asked["method"], asked["path"], content=body, headers=headers)
        assert not engine.faults.pending()

    assert response.status_code == asked["status"]
    if asked["status"] >= 400 or not recorded:
        # Errors are the frontend's own words, down to the column.
        assert response.content == recorded
        return
    assert list(differences(response.json(), json.loads(recorded))) == []


def test_a_difference_is_found() -> None:
    recorded = json.loads((FOLDER / "chat_all_fields.json").read_bytes())
    assert list(differences(recorded, recorded)) == []
    spoils: list[Callable[[Any], object]] = [
        lambda d: d.pop("usage"),
        lambda d: d["choices"][0]["logprobs"]["content"][0].pop("token_id"),
        lambda d: d["choices"][0]["logprobs"]["content"].pop(),
        lambda d: d["nvext"]["engine_data"]["routed_experts"].update(dtype="uint16"),
        lambda d: d["nvext"]["engine_data"]["routed_experts"].update(data=""),
        lambda d: d["nvext"]["engine_data"]["routed_experts"]["shape"].reverse(),
        lambda d: d["nvext"]["engine_data"].update(finished=1),
        lambda d: d["prompt_logprobs"][1].update(x={"logprob": 1.0, "rank": 1}),
        lambda d: d["prompt_logprobs"][1]["2"].update(rank=None),
        lambda d: d.update(nvext=dict(reversed(d["nvext"].items()))),
    ]
    for spoil in spoils:
        spoiled = json.loads((FOLDER / "chat_all_fields.json").read_bytes())
        spoil(spoiled)
        assert list(differences(spoiled, recorded)) != []
