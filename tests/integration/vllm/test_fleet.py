"""A fleet of two real vLLM servers: after an update both hold the new weights, also when requests were running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import AsyncTitoClient, TitoClient
from dynamo_tito.control import Fleet, FleetLimits, PhaseLimit
from support.vllm_live import TOLERANCE
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

PROMPT = np.random.default_rng(8).integers(0, 340, 40).tolist()
LIMIT = PhaseLimit(60.0, 120.0)
LIMITS = FleetLimits(
    gate=LIMIT, pause=LIMIT, update=LIMIT, verify=LIMIT, flush=LIMIT, resume=LIMIT, attempts=3, wait=0.1
)


@asynccontextmanager
async def fleet_of(servers: list[VllmServer]) -> AsyncIterator[Fleet]:
    async with await Fleet.connect(
        [server.url for server in servers], backend="vllm", model=MODEL, limits=LIMITS, trust_env=False
    ) as fleet:
        yield fleet


def held(server: VllmServer, truth: Truth) -> set[str]:
    """Which of the dense models the server's scores are those of."""
    with TitoClient(server.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False) as client:
        scored = client.score(PROMPT).logprobs[1:]
    models = ("dense_a", "dense_b")
    return {model for model in models if np.abs(scored - truth.one(model, PROMPT).sampled(PROMPT, 1)).max() < TOLERANCE}


@pytest.fixture
def fresh(dense_pair: list[VllmServer]) -> Iterator[list[VllmServer]]:
    """Both servers with dense_a, before and after."""

    def reset() -> None:
        for server in dense_pair:
            with httpx.Client(base_url=server.url, timeout=120.0, trust_env=False) as client:
                client.post("/pause", params={"mode": "abort"}).raise_for_status()
                body = {"method": "reload_weights", "kwargs": {"weights_path": server.checkpoint("dense_a")}}
                client.post("/collective_rpc", json=body).raise_for_status()
                client.post("/update_weight_version", json={"new_version": "a"}).raise_for_status()
                client.post("/reset_prefix_cache", params={"reset_running_requests": "true"}).raise_for_status()
                client.post("/resume").raise_for_status()

    reset()
    yield dense_pair
    reset()


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
def test_both_servers_hold_the_new_weights(
    fresh: list[VllmServer], truth: Truth, mode: Literal["keep", "wait", "abort"]
) -> None:
    assert [held(server, truth) for server in fresh] == [{"dense_a"}] * 2

    async def main() -> None:
        async with fleet_of(fresh) as fleet:
            assert set((await fleet.versions()).values()) == {"a"}
            result = await fleet.update_weights(fresh[0].checkpoint("dense_b"), mode=mode)
            assert [(each.version_before, each.version, each.state, each.error) for each in result.workers] == [
                ("a", "dense_b", "running", None)
            ] * 2

    asyncio.run(main())
    # The same tokens as before the update: cached blocks of the old weights would show.
    assert [held(server, truth) for server in fresh] == [{"dense_b"}] * 2


def test_weight_versions_name_the_weights_of_every_token(fresh: list[VllmServer], truth: Truth) -> None:
    """An update in the middle of a completion: the spans say which tokens came from which weights."""
    server = fresh[0]

    async def main() -> tito.Completion:
        async with (
            fleet_of([server]) as fleet,
            AsyncTitoClient(
                server.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False
            ) as client,
        ):
            call = asyncio.create_task(client.generate(PROMPT, sampling_params={"max_tokens": 400, "ignore_eos": True}))
            async with httpx.AsyncClient(timeout=30.0, trust_env=False) as plain:
                while True:
                    text = (await plain.get(f"{server.url}/metrics")).text
                    (line,) = [each for each in text.splitlines() if each.startswith("vllm:generation_tokens_total{")]
                    if float(line.rpartition(" ")[2]) > before + 20:
                        break
                    await asyncio.sleep(0.01)
            await fleet.update_weights(server.checkpoint("dense_b"), mode="keep")
            return await call

    with httpx.Client(timeout=30.0, trust_env=False) as plain:
        text = plain.get(f"{server.url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("vllm:generation_tokens_total{")]
    before = float(line.rpartition(" ")[2])
    completion = asyncio.run(main())
    assert len(completion.token_ids) == 400
    spans: Any = completion.weight_versions
    assert [span["version"] for span in spans] == ["a", "dense_b"]
    assert (spans[0]["start"], spans[0]["end"], spans[1]["end"]) == (0, spans[1]["start"], 400)
    ids = [*PROMPT, *completion.token_ids.tolist()]
    assert completion.logprobs is not None
    for span, model in zip(spans, ("dense_a", "dense_b"), strict=True):
        part = slice(span["start"], span["end"])
        expected = truth.one(model, ids).sampled(ids, len(PROMPT))[part]
        np.testing.assert_allclose(completion.logprobs[part], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "route",
    ["/reset_prefix_cache", "/reset_encoder_cache", "/reset_mm_cache", "/reset_prefix_cache?reset_external=true"],
)
def test_the_routes_that_empty_caches_exist(fresh: list[VllmServer], route: str) -> None:
    answer = httpx.post(f"{fresh[0].url}{route}", timeout=60.0, trust_env=False)
    assert answer.status_code == 200
