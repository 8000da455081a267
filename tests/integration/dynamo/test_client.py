"""The clients against the real Dynamo frontend: the engine gets every field, and its samples come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito._config import RendererTransport, SamplingDefaults
from dynamo_tito.simulator.model import Model
from support.dynamo_stack import DynamoStack, Worker

CHAT: RendererTransport = "dynamo_chat"
COMPLETIONS: RendererTransport = "dynamo_completions"
GENERATE: RendererTransport = "vllm_generate"
TRANSPORTS = [CHAT, COMPLETIONS, GENERATE]
#: Where the frontend hands engine_data's float64 on.
FLOAT64 = {CHAT, COMPLETIONS}
PROMPT = [5, 6, 700, 8_000, 31_996]


@pytest.fixture
def client(dynamo_stack: DynamoStack) -> Any:
    with TitoClient(dynamo_stack.url, model=dynamo_stack.model, timeout=60.0, trust_env=False) as client:
        yield client


def sampled(worker: Worker) -> dict[str, Any]:
    """What the engine has on record of its last answer."""

    def last() -> list[dict[str, Any]]:
        return [event for event in worker.events() if event["event"] == "sampled"]

    wait_for(lambda: bool(last()))
    return last()[-1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def routing(record: dict[str, Any], **shape: int) -> Any:
    """The engine's routing of a recorded request, computed anew."""
    (choice,) = record["choices"]
    ids = np.array([*record["prompt_ids"], *choice["token_ids"]], dtype=np.int64)
    return Model(**shape).routing(ids, version=choice["version"], stop=len(ids) - 1)


def same(completion: tito.Completion, record: dict[str, Any], transport: str, *, start: int = 0, **shape: int) -> None:
    (choice,) = record["choices"]
    np.testing.assert_array_equal(completion.token_ids, choice["token_ids"])
    exact = np.array(choice["logprobs"])
    expected = exact if transport in FLOAT64 else exact.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(completion.logprobs, expected)
    assert completion.routed_experts is not None
    assert completion.routed_experts.start == start
    np.testing.assert_array_equal(completion.routed_experts.array, routing(record, **shape)[start:])


# --- what reaches the engine ---

UNSET_STOP = {
    "max_tokens": None,
    "stop": None,
    "stop_token_ids": None,
    "stop_token_ids_visible": None,
    "stop_token_ids_hidden": None,
    "min_tokens": None,
    "ignore_eos": None,
    "max_thinking_tokens": None,
}
UNSET_SAMPLING = dict.fromkeys(
    (
        "n", "best_of", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k",
        "min_p", "use_beam_search", "length_penalty", "seed", "include_stop_str_in_output", "guided_decoding",
    )
)  # fmt: skip
UNSET_OUTPUT = dict.fromkeys(
    ("logprobs", "prompt_logprobs", "skip_special_tokens", "formatted_prompt", "return_tokens_as_token_ids")
)
#: What a call that names nothing is sampled with, as the worker receives it.
NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
EOS = [31_997, 31_998]
#: Half a float32 is exact, so nothing is rounded on the way.
PARAMS: dict[str, Any] = {
    "max_tokens": 4, "temperature": 0.5, "top_p": 0.75, "top_k": 9, "min_p": 0.25, "seed": 3, "min_tokens": 1,
    "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25, "skip_special_tokens": False,
    "allowed_token_ids": None, "return_token_ids": True, "spaces_between_special_tokens": False, "logprobs": 2,
}  # fmt: skip
SAMPLING = UNSET_SAMPLING | {
    "temperature": 0.5, "top_p": 0.75, "top_k": 9, "min_p": 0.25, "seed": 3, "repetition_penalty": 1.5,
    "presence_penalty": 0.5, "frequency_penalty": 0.25,
}  # fmt: skip


def reached(worker: Worker) -> dict[str, Any]:
    """The one request that reached the engine, without the digest of the model card."""
    requests = worker.requests()
    assert len(requests) == 1
    request = dict(requests[0])
    request.pop("mdc_sum")
    return request


@pytest.mark.parametrize("transport", [CHAT, COMPLETIONS])
def test_a_plain_request_on_the_openai_routes(client: TitoClient, worker: Worker, transport: Any) -> None:
    client.generate(PROMPT, transport=transport)
    token_in = {"token_in": True} if transport == CHAT else {}
    assert reached(worker) == {
        "model": "tito-model",
        "token_ids": PROMPT,
        "stop_conditions": UNSET_STOP | {"stop_token_ids_hidden": EOS},
        "sampling_options": UNSET_SAMPLING | NEUTRAL,
        "output_options": UNSET_OUTPUT | {"logprobs": 1},
        "eos_token_ids": EOS,
        "annotations": [],
        "routing": {},
        "router_config_override": None,
        "extra_args": {"nvext": {"extra_fields": ["engine_data", "detailed_finish_reason"], **token_in}},
    }


@pytest.mark.parametrize("salted", ["argument", "parameter"])
@pytest.mark.parametrize("transport", [CHAT, COMPLETIONS])
def test_every_field_on_the_openai_routes(client: TitoClient, worker: Worker, transport: Any, salted: str) -> None:
    routed: dict[str, Any] = {"cache_salt": "step-7", "priority": 3}
    client.generate(
        np.array(PROMPT),
        transport=transport,
        sampling_params=PARAMS | {"stop_token_ids": [30_000]} | (routed if salted == "parameter" else {}),
        stop_token_ids=[31_000, 31_001],
        session_id="rollout-1",
        request_id="request-1",
        extra_body={"nvext": {"agent_hints": {"osl": 9}, "extra_fields": ["worker_id"]}},
        **(routed if salted == "argument" else {}),
    )
    nvext = {"extra_fields": ["worker_id", "engine_data", "detailed_finish_reason"], "cache_salt": "step-7"}
    assert reached(worker) == {
        "model": "tito-model",
        "token_ids": PROMPT,
        "stop_conditions": UNSET_STOP
        | {"max_tokens": 4, "min_tokens": 1, "stop_token_ids": [30_000, 31_000, 31_001], "stop_token_ids_hidden": EOS},
        "sampling_options": SAMPLING,
        "output_options": UNSET_OUTPUT | {"logprobs": 2, "skip_special_tokens": False},
        "eos_token_ids": EOS,
        "annotations": [],
        "routing": {"expected_output_tokens": 9, "cache_salt": "step-7", "priority_jump": 3.0, "priority": 3},
        "router_config_override": None,
        "extra_args": {"nvext": nvext | ({"token_in": True} if transport == CHAT else {})},
        "agent_context": {
            "session_id": "rollout-1",
            "input_trigger": "user_message" if transport == CHAT else "other",
        },
        "image_cache_scope": "rollout-1",
    }


def test_a_plain_request_on_the_token_route(client: TitoClient, worker: Worker) -> None:
    client.generate(PROMPT, transport=GENERATE)
    request = reached(worker)
    sent = request["extra_args"]["vllm_tito"]
    sent.pop("request_id")
    assert sent == {
        "sampling_params": NEUTRAL | {"top_k": 0, "logprobs": 1, "skip_special_tokens": False},
        "model": "tito-model",
        "stream": False,
        "priority": 0,
    }
    assert request["token_ids"] == PROMPT
    assert request["output_options"] == UNSET_OUTPUT | {"logprobs": 1, "skip_special_tokens": False}


def test_every_field_on_the_token_route(client: TitoClient, worker: Worker) -> None:
    client.generate(
        np.array(PROMPT, dtype=np.int32),
        transport=GENERATE,
        sampling_params=PARAMS | {"stop_token_ids": [30_000]},
        stop_token_ids=[31_000, 31_001],
        cache_salt="step-7",
        priority=3,
        routed_experts_prompt_start=2,
        session_id="rollout-1",
        request_id="request-1",
        extra_body={"further": 1},
    )
    request = reached(worker)
    assert request["extra_args"] == {
        "vllm_tito": {
            "request_id": "request-1",
            "sampling_params": PARAMS | {"stop_token_ids": [30_000, 31_000, 31_001], "routed_experts_prompt_start": 2},
            "model": "tito-model",
            "stream": False,
            "cache_salt": "step-7",
            "priority": 3,
            "further": 1,
        }
    }
    assert request["token_ids"] == PROMPT
    # vLLM's sign: lower is sooner. The router's is the other way round.
    assert request["routing"]["priority"] == -3
    assert request["routing"]["cache_salt"] == "step-7"
    assert worker.events()[0]["context_id"] == "request-1"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_worker_receives_neutral_values_for_what_is_open(
    dynamo_stack: DynamoStack, worker: Worker, transport: Any
) -> None:
    """The worker starts from the model's generation_config, and sets what it receives."""
    off = 0 if transport == GENERATE else -1

    def received(defaults: SamplingDefaults, **params: Any) -> dict[str, Any]:
        worker.forget()
        with TitoClient(
            dynamo_stack.url, model=dynamo_stack.model, transport=transport, sampling_defaults=defaults, trust_env=False
        ) as client:
            client.generate(PROMPT, sampling_params={"max_tokens": 2, **params})
        options = reached(worker)["sampling_options"]
        return {name: options[name] for name in NEUTRAL if options[name] is not None}

    assert received("neutral") == NEUTRAL | {"top_k": off}
    assert received("neutral", temperature=0.0) == NEUTRAL | {"top_k": off, "temperature": 0.0}
    assert received("neutral", top_k=7, top_p=0.5) == NEUTRAL | {"top_k": 7, "top_p": 0.5}
    assert received("model") == {}
    assert received("model", temperature=0.0) == {"temperature": 0.0}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_score_is_asked_with_neutral_values(client: TitoClient, worker: Worker, transport: Any) -> None:
    client.score(PROMPT, transport=transport)
    options = reached(worker)["sampling_options"]
    assert {name: options[name] for name in NEUTRAL} == NEUTRAL | {"top_k": 0 if transport == GENERATE else -1}


@pytest.mark.parametrize("transport", [CHAT, COMPLETIONS])
def test_greed_sampling_of_the_frontend_is_not_greedy(frontend: httpx.Client, worker: Worker, transport: str) -> None:
    """Why it is refused: neither it nor a temperature reaches the worker."""
    path, prompt = (
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        if transport == CHAT
        else ("completions", {"prompt": PROMPT})
    )
    answer = frontend.post(
        f"/v1/{path}", json={"model": "tito-model", "temperature": 0.5, "nvext": {"greed_sampling": True}, **prompt}
    )
    assert answer.status_code == 200
    assert reached(worker)["sampling_options"] == UNSET_SAMPLING


def test_no_logprobs_are_asked_for_when_none_are_wanted(client: TitoClient, worker: Worker) -> None:
    for transport in TRANSPORTS:
        worker.forget()
        completion = client.generate(PROMPT, transport=transport, sampling_params={"max_tokens": 2, "logprobs": None})
        assert completion.logprobs is None
        assert reached(worker)["output_options"]["logprobs"] is None


# --- what comes back ---


@pytest.mark.parametrize("start", [None, 1, len(PROMPT) - 1, len(PROMPT)])
@pytest.mark.parametrize("num_experts", [128, 512])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_answer_is_what_the_engine_sampled(
    client: TitoClient, worker: Worker, transport: Any, num_experts: int, start: int | None
) -> None:
    worker.control(num_experts=num_experts, num_layers=6, top_k=3, chunk=2)
    completion = client.generate(
        PROMPT, transport=transport, sampling_params={"max_tokens": 7}, routed_experts_prompt_start=start
    )
    assert completion.routed_experts is not None
    assert completion.routed_experts.wire_dtype == ("uint8" if num_experts == 128 else "uint16")
    same(completion, sampled(worker), transport, start=start or 0, num_experts=num_experts, num_layers=6, top_k=3)
    assert len(worker.requests()) == 1


def test_a_refused_start_is_sent_once_and_remembered(dynamo_stack: DynamoStack, worker: Worker) -> None:
    with TitoClient(dynamo_stack.url, model=dynamo_stack.model, transport=CHAT, trust_env=False) as client:
        for _ in range(3):
            completion = client.generate(PROMPT, routed_experts_prompt_start=3)
            same(completion, sampled(worker), CHAT, start=3)
    # The 400 never reached the engine, and neither did a second sample.
    assert len(worker.requests()) == 3


def test_equal_over_all_transports(client: TitoClient, worker: Worker) -> None:
    worker.control(num_layers=48, top_k=8, chunk=5)
    answers = [
        client.generate(
            PROMPT * 10, transport=transport, sampling_params={"max_tokens": 40}, routed_experts_prompt_start=20
        )
        for transport in TRANSPORTS
    ]
    logprobs, routed = [], []
    for answer in answers:
        assert answer.logprobs is not None
        assert answer.routed_experts is not None
        logprobs.append(answer.logprobs)
        routed.append(answer.routed_experts)
    for other in range(1, 3):
        np.testing.assert_array_equal(answers[0].token_ids, answers[other].token_ids)
        np.testing.assert_array_equal(logprobs[0].astype(np.float32), logprobs[other].astype(np.float32))
        assert routed[0].start == routed[other].start == 20
        np.testing.assert_array_equal(routed[0].array, routed[other].array)
    # engine_data keeps float64, the token route rounds.
    np.testing.assert_array_equal(logprobs[0], logprobs[1])
    assert not np.array_equal(logprobs[0], logprobs[2])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_64k_tokens(client: TitoClient, worker: Worker, transport: Any) -> None:
    prompt = list(range(300, 700)) * 120
    worker.control(num_layers=48, top_k=8, chunk=2_000)
    completion = client.generate(prompt, transport=transport, sampling_params={"max_tokens": 16_000}, deadline=100.0)
    assert completion.routed_experts is not None
    assert completion.routed_experts.array.shape == (63_999, 48, 8)
    same(completion, sampled(worker), transport, num_layers=48, top_k=8)


@pytest.mark.usefixtures("worker")
def test_stop_tokens_and_finish_reasons(client: TitoClient) -> None:
    free = client.generate(PROMPT, transport=CHAT, sampling_params={"max_tokens": 6})
    assert (free.finish_reason, free.aborted) == ("length", False)
    stop = int(free.token_ids[3])
    for transport in TRANSPORTS:
        stopped = client.generate(PROMPT, transport=transport, sampling_params={"max_tokens": 6}, stop_token_ids=[stop])
        assert stopped.finish_reason == "stop"
        np.testing.assert_array_equal(stopped.token_ids, free.token_ids[:4])


@pytest.mark.parametrize("transport", [CHAT, COMPLETIONS])
def test_an_abort_is_seen(client: TitoClient, worker: Worker, transport: Any) -> None:
    worker.control(finish_reason="abort")
    completion = client.generate(PROMPT, transport=transport)
    assert (completion.finish_reason, completion.aborted) == ("abort", True)


# --- what goes wrong ---


def test_an_abort_on_the_token_route_is_an_error(client: TitoClient, worker: Worker) -> None:
    worker.control(finish_reason="abort")
    with pytest.raises(tito.ServerError) as caught:
        client.generate(PROMPT, transport=GENERATE)
    assert caught.value.status == 499


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("control", "error", "status"),
    [
        ({"error_after": 1}, tito.EngineError, 500),
        ({"raise": {"kind": "InvalidArgument", "args": ["not like that"]}}, tito.BadRequestError, 400),
        ({"raise": {"kind": "ValueError", "args": ["x"]}}, tito.BadRequestError, 400),
        ({"raise": {"kind": "RuntimeError", "args": ["x"]}}, tito.EngineError, 500),
    ],
)
def test_errors_of_the_engine_surface_once(
    client: TitoClient, worker: Worker, transport: Any, control: Any, error: type[tito.ServerError], status: int
) -> None:
    worker.control(**control)
    with pytest.raises(error) as caught:
        client.generate(PROMPT, transport=transport)
    assert (caught.value.status, caught.value.retryable) == (status, False)
    assert len(worker.requests()) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_errors_of_the_frontend(dynamo_stack: DynamoStack, worker: Worker, transport: Any) -> None:
    with TitoClient(dynamo_stack.url, model="nope", transport=transport, trust_env=False) as client:
        with pytest.raises(tito.NotFoundError) as caught:
            client.generate(PROMPT)
        assert caught.value.status == 404
    with TitoClient(dynamo_stack.url, model=dynamo_stack.model, transport=transport, trust_env=False) as client:
        with pytest.raises(tito.BadRequestError):
            client.generate(PROMPT, sampling_params={"max_tokens": 0})
        if transport != GENERATE:
            with pytest.raises(tito.BadRequestError):
                client.generate([1, 32_000])
            with pytest.raises(tito.UnsupportedParameterError):
                client.generate(PROMPT, extra_body={"totally_unknown": 1})
    assert worker.requests() == []


@pytest.mark.parametrize("extra_rows", [-1, 1])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_wrong_rows_are_refused(client: TitoClient, worker: Worker, transport: Any, extra_rows: int) -> None:
    worker.control(extra_rows=extra_rows)
    with pytest.raises(tito.RoutedExpertsError):
        client.generate(PROMPT, transport=transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_missing_logprob_is_refused(client: TitoClient, worker: Worker, transport: Any) -> None:
    worker.control(drop_logprobs_at=2)
    # Chat and completions leave it out; the token route fails as a whole.
    with pytest.raises((tito.AlignmentError, tito.ServerError)):
        client.generate(PROMPT, transport=transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_sentinel_is_refused_or_nan(
    dynamo_stack: DynamoStack, client: TitoClient, worker: Worker, transport: Any
) -> None:
    worker.control(nonfinite=True, chunk=3)
    with pytest.raises(tito.MissingFieldError):
        client.generate(PROMPT, transport=transport)
    with TitoClient(
        dynamo_stack.url, model=dynamo_stack.model, transport=transport, missing_logprob="nan", trust_env=False
    ) as lenient:
        completion = lenient.generate(PROMPT)
    assert completion.logprobs is not None
    assert np.isnan(completion.logprobs).tolist() == [True, False, False, True, False, False]


def test_an_overlong_prompt_is_not_sent(client: TitoClient, worker: Worker) -> None:
    with pytest.raises(tito.OverlongPromptError) as caught:
        client.generate([1] * 262_145, transport=CHAT)
    assert (caught.value.prompt_len, caught.value.max_prompt_len) == (262_145, 262_143)
    assert worker.requests() == []


# --- many, and leaving ---


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cancelled_call_stops_the_engine(dynamo_stack: DynamoStack, worker: Worker, transport: Any) -> None:
    worker.control(delay=0.05, max_tokens=2_000)

    async def main() -> None:
        async with AsyncTitoClient(
            dynamo_stack.url, model=dynamo_stack.model, transport=transport, trust_env=False
        ) as client:
            call = asyncio.create_task(client.generate(PROMPT))
            await asyncio.to_thread(wait_for, lambda: bool(worker.requests()))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    wait_for(lambda: any(event["event"] == "cancelled" for event in worker.events()))
    assert not any(event["event"] == "sampled" for event in worker.events())


def test_a_deadline_stops_the_engine_too(client: TitoClient, worker: Worker) -> None:
    worker.control(delay=0.05, max_tokens=2_000)
    with pytest.raises(tito.TransportError):
        client.generate(PROMPT, transport=GENERATE, deadline=0.3)
    wait_for(lambda: any(event["event"] == "cancelled" for event in worker.events()))
    assert len(worker.requests()) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_200_at_once(dynamo_stack: DynamoStack, worker: Worker, transport: Any) -> None:
    worker.control(delay=0.02, chunk=2)

    async def main() -> list[tito.Completion]:
        async with AsyncTitoClient(
            dynamo_stack.url, model=dynamo_stack.model, transport=transport, trust_env=False
        ) as client:
            return await asyncio.gather(
                *(client.generate([1_000 + n, 7], sampling_params={"max_tokens": 6}) for n in range(200))
            )

    completions = asyncio.run(main())
    wait_for(lambda: sum(event["event"] == "sampled" for event in worker.events()) == 200)
    records = {event["prompt_ids"][0]: event for event in worker.events() if event["event"] == "sampled"}
    assert len(worker.requests()) == 200
    for number, completion in enumerate(completions):
        same(completion, records[1_000 + number], transport)
