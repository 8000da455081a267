"""What an engine sends on request beside tokens: through the clients, against what the embedded engine holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._config import RendererTransport

PROMPT = [11, 12, 13, 14, 15]
SHAPE: dict[str, Any] = {"num_indexer_layers": 3, "index_topk": 4}
FLAT = "return_flat_raw_output_top_logprobs"


@pytest.fixture(scope="module")
def sglang() -> Iterator[simulator.Engine]:
    with simulator.running(backend="sglang", draft_tokens=3, **SHAPE) as engine:
        yield engine


@pytest.fixture(scope="module")
def vllm() -> Iterator[simulator.Engine]:
    with simulator.running(backend="vllm", draft_tokens=2) as engine:
        yield engine


def client(engine: simulator.Engine, transport: RendererTransport, **options: Any) -> tito.TitoClient:
    model = None if transport == "sglang_generate" else engine.config.model
    return tito.TitoClient(engine.url, model=model, transport=transport, preflight=False, **options)


def generate(open_client: tito.TitoClient, extra: dict[str, Any], **options: Any) -> tito.Completion:
    params = {"max_tokens": 6, "logprobs": 5, "top_k": 5, "seed": 3}
    return open_client.generate(PROMPT, sampling_params=params, extra_body=extra, **options)


@pytest.mark.parametrize("transport", ["sglang_generate", "sglang_chat"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_flat_form_is_the_nested_one(
    sglang: simulator.Engine, transport: RendererTransport, *, packed: bool
) -> None:
    with client(sglang, transport) as opened:
        nested = generate(opened, {})
        flat = generate(opened, {FLAT: True, "return_flat_raw_top_logprobs_b64": packed})
    assert nested.top_logprobs is not None
    assert flat.top_logprobs is not None
    assert nested.top_logprobs.equals(flat.top_logprobs)
    assert ("_b64" in flat.sources["top_logprobs"]) == packed
    assert nested.sources["top_logprobs"].endswith("meta_info.output_top_logprobs")


def test_a_stream_has_no_flat_form(sglang: simulator.Engine) -> None:
    with (
        client(sglang, "sglang_generate") as opened,
        pytest.raises(ValueError, match=f"{FLAT} cannot be given: a stream"),
    ):
        generate(opened, {FLAT: True}, stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_the_samplers_own_log_probabilities(sglang: simulator.Engine, *, stream: bool) -> None:
    with client(sglang, "sglang_generate") as opened:
        completion = generate(opened, {"return_sampling_mask": True}, stream=stream)
    mask, own, top = completion.sampling_mask, completion.sampling_logprobs, completion.top_logprobs
    assert mask is not None
    assert own is not None
    assert top is not None
    assert completion.logprobs is not None
    for left, (ids, values), value, logprob in zip(mask, top, own, completion.logprobs, strict=True):
        assert set(left) == set(ids)
        assert value == pytest.approx(logprob - np.logaddexp.reduce(values), abs=1e-6)


def expected_rows(start: int, stop: int) -> np.ndarray[Any, Any]:
    """The newest four positions up to each, in another order in each layer."""
    rows = [[[p - (s + layer) % 4 for s in range(4)] for layer in range(3)] for p in range(start, stop)]
    return np.array(rows).clip(-1)


@pytest.mark.parametrize("start", [None, 0, 3, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_rows_of_an_indexer(sglang: simulator.Engine, start: int | None, *, stream: bool) -> None:
    # Asking for a start asks for routed experts, too.
    with client(sglang, "sglang_generate", num_layers=4, top_k=2, **SHAPE) as opened:
        found = generate(opened, {"return_indexer_topk": True}, routed_experts_prompt_start=start, stream=stream)
    rows = found.indexer_topk
    assert rows is not None
    assert rows.array.dtype == np.int32
    assert (rows.start, rows.complete) == (start or 0, True)
    np.testing.assert_array_equal(rows.array, expected_rows(start or 0, len(PROMPT) + 5))
    assert found.complete


def test_rows_of_an_indexer_need_their_shape(sglang: simulator.Engine) -> None:
    with client(sglang, "sglang_generate", num_indexer_layers=3) as opened:
        sent = len(sglang.requests)
        with pytest.raises(ValueError, match="give the client num_indexer_layers and index_topk"):
            generate(opened, {"return_indexer_topk": True})
        assert len(sglang.requests) == sent


def test_what_a_server_leaves_out_is_missed() -> None:
    with (
        simulator.running(backend="sglang") as engine,
        client(engine, "sglang_generate", **SHAPE) as opened,
        pytest.raises(tito.MissingFieldError, match="return_indexer_topk was asked for") as caught,
    ):
        generate(opened, {"return_indexer_topk": True})
    assert caught.value.kind == "missing"


def test_an_older_server_ignores_given_ids() -> None:
    given = {"prompt_logprob_token_ids": [[7]] * 4}
    with (
        simulator.running(backend="vllm", vllm_version="0.31") as engine,
        client(engine, "vllm_generate") as opened,
        pytest.raises(tito.MissingFieldError, match="prompt_logprob_token_ids was asked for"),
    ):
        opened.generate(PROMPT, sampling_params={"max_tokens": 1, **given})


def test_log_probabilities_of_given_ids(vllm: simulator.Engine) -> None:
    rows = [[13, 7], [14], [15, 8]]
    with client(vllm, "vllm_generate") as opened:
        params = {"max_tokens": 1, "prompt_logprob_token_ids": rows, "prompt_logprob_start": 1}
        scores = opened.generate(PROMPT, sampling_params=params).prompt_token_id_logprobs
        own = opened.score(PROMPT).logprobs
    assert scores is not None
    assert scores.dtype == np.float32
    assert scores.shape == (3, 2)
    # The last row predicts the last token of the prompt.
    np.testing.assert_array_equal(scores[:, 0], own[2:].astype(np.float32))
    assert np.isneginf(scores[1, 1])
    assert np.isfinite(scores[[0, 2], 1]).all()


def test_given_ids_are_not_streamed(vllm: simulator.Engine) -> None:
    with (
        client(vllm, "vllm_generate") as opened,
        pytest.raises(ValueError, match="prompt_logprob_token_ids cannot be given: a stream"),
    ):
        opened.generate(PROMPT, sampling_params={"prompt_logprob_token_ids": [[7]] * 4}, stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_what_sglang_tells(sglang: simulator.Engine, *, stream: bool) -> None:
    with client(sglang, "sglang_generate") as opened:
        engine = generate(opened, {}, stream=stream).engine
    assert engine == {
        "e2e_latency": 0.1,
        "num_retractions": 0,
        "spec_accept_length": 2.0,
        "spec_accept_rate": 3 / 9,
        "spec_correct_drafts_histogram": [0, 3],
        "spec_num_correct_drafts": 3,
        "spec_num_proposed_drafts": 9,
        "spec_verify_ct": 3,
    }
    assert json.loads(json.dumps(engine)) == engine


def test_what_vllm_tells(vllm: simulator.Engine) -> None:
    with client(vllm, "vllm_generate") as opened:
        engine = generate(opened, {}).engine
    assert engine is not None
    assert engine["metrics"]["speculative_decoding"]["acceptance_histogram"] == [0, 3, 0]
    assert engine["metrics"].keys() == {"speculative_decoding"}


@pytest.mark.parametrize("transport", ["dynamo_chat", "dynamo_completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_dynamo_tells(transport: str, *, stream: bool) -> None:
    route = cast("RendererTransport", transport)
    with simulator.running(backend="dynamo") as engine, client(engine, route) as opened:
        extra = {"nvext": {"extra_fields": ["worker_id", "timing"]}}
        told = generate(opened, extra, stream=stream).engine
        worker = engine.instance_id
    assert told is not None
    assert told["worker_id"] == {"prefill_worker_id": worker, "decode_worker_id": worker}
    assert told["timing"].keys() >= {"request_received_ms", "ttft_ms", "total_time_ms"}
    assert told["kv_cache_hit"] == {"prompt_tokens": len(PROMPT), "reused_tokens": 0}
