"""Where versions of the real Dynamo differ."""

from __future__ import annotations

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import TitoClient
from support.dynamo_stack import DynamoStack, Worker

PROMPT = [5, 6, 700, 8_000, 31_996]


def released(stack: DynamoStack) -> tuple[int, int]:
    major, minor = stack.version.split(".")[:2]
    return int(major), int(minor)


def test_the_native_route_of_sglang_answers_in_one_piece_from_1_7_on(dynamo_stack: DynamoStack, worker: Worker) -> None:
    with TitoClient(
        dynamo_stack.url, model=dynamo_stack.model, transport="sglang_generate", timeout=60.0, trust_env=False
    ) as client:
        if released(dynamo_stack) < (1, 7):
            with pytest.raises(tito.ServerError) as caught:
                client.generate(PROMPT, sampling_params={"max_tokens": 5})
            assert caught.value.status == 501
            assert worker.requests() == []
            return
        completion = client.generate(PROMPT, sampling_params={"max_tokens": 5})
    (event,) = [event for event in worker.events() if event["event"] == "sampled"]
    (choice,) = event["choices"]
    np.testing.assert_array_equal(completion.token_ids, choice["token_ids"])
    np.testing.assert_array_equal(completion.logprobs, choice["logprobs"])
