"""A server that sends logits instead of log-probabilities: every call is refused, with the name of the option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dynamo_tito as tito
from dynamo_tito._client import TitoClient
from support.vllm_stack import MODEL, VllmServer

PROMPT = list(range(40, 80))


@pytest.fixture(scope="module")
def client(vllm_dir: Path) -> Iterator[TitoClient]:
    with (
        VllmServer(vllm_dir, "dense_a", ("--logprobs-mode", "raw_logits"), name="raw_logits") as server,
        TitoClient(server.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False) as client,
    ):
        yield client


def test_a_completion_is_refused(client: TitoClient) -> None:
    with pytest.raises(tito.MissingFieldError) as caught:
        client.generate(PROMPT, sampling_params={"max_tokens": 40, "ignore_eos": True})
    assert caught.value.kind == "positive_logprob"


def test_scores_are_refused(client: TitoClient) -> None:
    with pytest.raises(tito.MissingFieldError) as caught:
        client.score(PROMPT, top_k=3)
    assert caught.value.kind == "positive_logprob"
