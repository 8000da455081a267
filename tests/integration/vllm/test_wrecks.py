"""Updates that leave wrong weights or none: each error names the worker, which does not go on running.

They wreck the servers that the other files use, so this file is the last by name.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import TitoClient
from dynamo_tito.control import Canary, Fleet, FleetLimits, FleetResult, PhaseLimit
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

IDS = np.random.default_rng(10).integers(0, 340, 40).tolist()
LIMIT = PhaseLimit(60.0, 120.0)
LIMITS = FleetLimits(
    gate=LIMIT, pause=LIMIT, update=LIMIT, verify=LIMIT, flush=LIMIT, resume=LIMIT, attempts=3, wait=0.1
)
#: An engine that loads one of these has empty layers.
BROKEN = ["missing", "dense_cut"]


def canary(truth: Truth, model: str) -> Canary:
    """With what the trainer's own forward pass says."""
    return Canary(IDS, logprobs=truth.one(model, IDS).sampled(IDS, 1).tolist(), tolerance=1e-3)


async def fleet_of(servers: list[VllmServer]) -> Fleet:
    urls = [server.url for server in servers]
    return await Fleet.connect(urls, backend="vllm", model=MODEL, limits=LIMITS, trust_env=False)


async def refused_update(servers: list[VllmServer], name: str, expected: Canary) -> FleetResult:
    """The account of an update that is seen to be wrong only by what the servers compute."""
    async with await fleet_of(servers) as fleet:
        with pytest.raises(tito.AdminError):
            await fleet.update_weights(servers[0].checkpoint(name), canary=expected, check_files=False)
        assert fleet.last_result is not None
        return fleet.last_result


def paused(server: VllmServer) -> bool:
    answer = httpx.get(f"{server.url}/is_paused", timeout=30.0, trust_env=False).raise_for_status()
    return bool(answer.json()["is_paused"])


def reload(server: VllmServer, name: str) -> None:
    """Behind every fleet's back, with the label of before."""
    with httpx.Client(base_url=server.url, timeout=120.0, trust_env=False) as client:
        body = {"method": "reload_weights", "kwargs": {"weights_path": server.checkpoint(name)}}
        client.post("/collective_rpc", json=body).raise_for_status()
        client.post("/reset_prefix_cache").raise_for_status()


def test_weights_are_verified_by_what_the_servers_compute(dense_pair: list[VllmServer], truth: Truth) -> None:
    async def main() -> None:
        async with await fleet_of(dense_pair) as fleet:
            for name in ("dense_b", "dense_a"):
                result = await fleet.update_weights(dense_pair[0].checkpoint(name), canary=canary(truth, name))
                assert [(each.version, each.state, each.verified, each.verified_by) for each in result.workers] == [
                    (name, "running", True, "canary")
                ] * 2

    asyncio.run(main())


def test_a_worker_that_was_reloaded_elsewhere_is_named(dense_pair: list[VllmServer], truth: Truth) -> None:
    first, second = dense_pair

    async def main() -> None:
        async with await fleet_of(dense_pair) as fleet:
            await fleet.update_weights(first.checkpoint("dense_b"), canary=canary(truth, "dense_b"))
            seen = await fleet.verify(canary(truth, "dense_b"))
            assert [(each.verified, each.verified_by) for each in seen.workers] == [(True, "canary")] * 2
            await asyncio.to_thread(reload, second, "dense_a")
            with pytest.raises(tito.AdminError) as caught:
                await fleet.verify(canary(truth, "dense_b"))
            (result,) = [each for each in caught.value.results if each.error is not None]
            assert second.url in result.worker
            assert (result.verified, result.verified_by) == (False, "canary")
            # The second worker has these already.
            same = replace(canary(truth, "dense_a"), expect_change=False)
            await fleet.update_weights(first.checkpoint("dense_a"), canary=same)

    asyncio.run(main())


def test_a_checkpoint_without_half_of_its_tensors_is_named(dense_pair: list[VllmServer], truth: Truth) -> None:
    expected = canary(truth, "dense_b")
    result = asyncio.run(refused_update(dense_pair, "dense_half", expected))
    assert [(each.verified, each.verified_by) for each in result.workers] == [(False, "canary")] * 2
    assert all(each.state != "running" for each in result.workers)
    assert [paused(server) for server in dense_pair] == [True, True]

    async def repair() -> None:
        async with await fleet_of(dense_pair) as fleet:
            good = await fleet.update_weights(dense_pair[0].checkpoint("dense_a"), canary=canary(truth, "dense_a"))
            assert [(each.state, each.verified) for each in good.workers] == [("running", True)] * 2

    asyncio.run(repair())


@pytest.mark.parametrize("name", ["dense_half", *BROKEN])
def test_a_broken_checkpoint_touches_no_worker(dense_pair: list[VllmServer], name: str, truth: Truth) -> None:
    async def main() -> None:
        async with await fleet_of(dense_pair) as fleet:
            with pytest.raises((tito.AdminError, ValueError), match=r"dense_half|missing|model-00002-of-00002"):
                await fleet.update_weights(dense_pair[0].checkpoint(name))

    asyncio.run(main())
    expected = truth.one("dense_a", IDS).sampled(IDS, 1)
    for server in dense_pair:
        assert not paused(server)
        with TitoClient(server.url, model=MODEL, transport="vllm_generate", timeout=120.0, trust_env=False) as client:
            np.testing.assert_allclose(client.score(IDS).logprobs[1:], expected, rtol=0, atol=1e-4)


def test_a_reload_of_a_moe_model_that_vllm_gets_wrong_is_named(moe: VllmServer, truth: Truth) -> None:
    """vLLM's CPU kernels keep the experts of before, and `reload_weights` says nothing."""
    result = asyncio.run(refused_update([moe], "moe_b", canary(truth, "moe_b")))
    (worker,) = result.workers
    assert (worker.verified, worker.verified_by) == (False, "canary")
    assert worker.state != "running"


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_broken_checkpoint_that_cannot_be_seen_leaves_no_worker_running(
    dense_pair: list[VllmServer], number: int
) -> None:
    """vLLM empties its layers before it opens the file, so an engine that went on would answer without weights."""
    server = dense_pair[number]

    async def main() -> None:
        async with await fleet_of([server]) as fleet:
            with pytest.raises(tito.AdminError) as refused:
                await fleet.update_weights(server.checkpoint(BROKEN[number]), check_files=False)
            (worker,) = refused.value.results
            assert worker.state != "running"
            assert worker.updated is not True
            assert worker.verified is not True

    asyncio.run(main())
    log = Path(server.log).read_text(errors="replace")
    # The request that empties the layers is sent once.
    assert log.count('"POST /collective_rpc') - log.count('"POST /collective_rpc HTTP/1.1" 200') == 1
