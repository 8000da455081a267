"""Generation artifacts from the real frontend: Dynamo 1.7's own code captures and encodes what the stand-in sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import RendererTransport, TitoClient
from support.dynamo_stack import DynamoStack, Worker

from .test_client import PROMPT, routing, sampled

TRANSPORTS: list[RendererTransport] = ["dynamo_chat", "dynamo_completions"]
INLINE = "nvext.metadata_upload.data_base64.choices[0]"


def released(stack: DynamoStack) -> tuple[int, ...]:
    return tuple(map(int, stack.version.split(".")[:2]))


@pytest.fixture(params=TRANSPORTS)
def client(request: pytest.FixtureRequest, dynamo_stack: DynamoStack) -> Any:
    if released(dynamo_stack) < (1, 7):
        pytest.skip("1.6 has no artifacts")
    with TitoClient(
        dynamo_stack.url, model=dynamo_stack.model, transport=request.param, timeout=60.0, trust_env=False
    ) as client:
        yield client


def generate(client: TitoClient, **options: Any) -> tito.Completion:
    params = {"max_tokens": 6, **options.pop("sampling_params", {})}
    return client.generate(PROMPT, artifact="inline", sampling_params=params, **options)


@pytest.mark.parametrize("candidates", [1, 3])
def test_an_artifact_is_the_answer(client: TitoClient, worker: Worker, candidates: int) -> None:
    completion = generate(client, sampling_params={"logprobs": candidates})
    record = sampled(worker)
    (choice,) = record["choices"]
    np.testing.assert_array_equal(completion.token_ids, choice["token_ids"])
    np.testing.assert_array_equal(completion.prompt_token_ids, PROMPT)
    np.testing.assert_array_equal(completion.logprobs, np.float32(choice["logprobs"]).astype(np.float64))
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, routing(record))
    assert completion.sources["routed_experts"] == f"{INLINE}.moe_routes"
    assert completion.finish_reason == "length"
    if candidates == 1:
        assert completion.top_logprobs is None
    else:
        top = completion.top_logprobs
        assert top is not None
        assert [len(ids) for ids, _ in top] == [candidates] * 6
        assert completion.sources["top_logprobs"] == f"{INLINE}.topk_logprobs.logprobs"


def test_many_experts_and_a_start(client: TitoClient, worker: Worker) -> None:
    worker.control(num_experts=300)
    completion = generate(client, routed_experts_prompt_start=3)
    assert completion.routed_experts is not None
    assert (completion.routed_experts.wire_dtype, completion.routed_experts.start) == ("uint16", 3)
    np.testing.assert_array_equal(completion.routed_experts.array, routing(sampled(worker), num_experts=300)[3:])


def test_without_experts_none_are_asked_for(dynamo_stack: DynamoStack, worker: Worker) -> None:
    if released(dynamo_stack) < (1, 7):
        pytest.skip("1.6 has no artifacts")
    worker.control(routed_experts=None)
    with TitoClient(
        dynamo_stack.url,
        model=dynamo_stack.model,
        transport="dynamo_chat",
        timeout=60.0,
        trust_env=False,
        experts="skip",
    ) as client:
        completion = generate(client)
    np.testing.assert_array_equal(completion.token_ids, sampled(worker)["choices"][0]["token_ids"])
    assert completion.routed_experts is None


def test_a_worker_that_captures_no_experts_refuses(client: TitoClient, worker: Worker) -> None:
    worker.control(routed_experts=None)
    with pytest.raises(tito.BadRequestError, match="router profile are required"):
        generate(client)


@pytest.mark.parametrize(
    ("control", "kind"), [({"extra_rows": 1}, "artifact_failed"), ({"finish_reason": "cancelled"}, "missing")]
)
def test_an_artifact_that_did_not_come_about(client: TitoClient, worker: Worker, control: Any, kind: str) -> None:
    worker.control(**control)
    with pytest.raises(tito.MissingFieldError) as caught:
        generate(client)
    assert caught.value.kind == kind


def test_more_than_an_inline_artifact_may_be(client: TitoClient) -> None:
    with pytest.raises(tito.BadRequestError, match="inline worst-case size"):
        generate(client, sampling_params={"max_tokens": 60_000})


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_older_server_says_that_it_has_none(
    dynamo_stack: DynamoStack, worker: Worker, transport: RendererTransport
) -> None:
    if released(dynamo_stack) >= (1, 7):
        pytest.skip("1.7 has artifacts")
    with (
        TitoClient(
            dynamo_stack.url, model=dynamo_stack.model, transport=transport, timeout=60.0, trust_env=False
        ) as client,
        pytest.raises(tito.BadRequestError, match="unknown field `kind`"),
    ):
        generate(client)
    assert worker.requests() == []
