"""LoRA adapters on a real vLLM: a request that names an adapter is answered by that adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._client import TitoClient
from dynamo_tito.control import Fleet, FleetLimits, VllmAdmin, make_admin
from support.vllm_live import TOLERANCE
from support.vllm_stack import MODEL, VllmServer
from support.vllm_truth import Truth

PROMPT = np.random.default_rng(9).integers(0, 340, 40).tolist()
ADAPTERS = (None, "adapter_1", "adapter_2")
LIMITS = FleetLimits(attempts=3, wait=0.1)


@pytest.fixture(scope="module")
def server(vllm_dir: Path) -> Iterator[VllmServer]:
    options = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", "--max-cpu-loras", "4")
    with VllmServer(vllm_dir, "dense_a", options, name="adapters") as server:
        yield server


@asynccontextmanager
async def fleet_of(server: VllmServer) -> AsyncIterator[Fleet]:
    connected = Fleet.connect([server.url], backend="vllm", model=MODEL, limits=LIMITS, trust_env=False)
    async with await connected as fleet:
        yield fleet


def answering(server: VllmServer, truth: Truth, model: str) -> set[str | None]:
    """Whose log-probabilities a completion under this name has: an adapter's, or the base model's (None)."""
    with TitoClient(server.url, model=model, transport="vllm_generate", timeout=120.0, trust_env=False) as client:
        completion = client.generate(PROMPT, sampling_params={"max_tokens": 5, "ignore_eos": True})
    ids = [*PROMPT, *completion.token_ids.tolist()]
    assert completion.logprobs is not None
    return {
        adapter
        for adapter in ADAPTERS
        if np.abs(truth.one("dense_a", ids, adapter=adapter).sampled(ids, len(PROMPT)) - completion.logprobs).max()
        < TOLERANCE
    }


def listed(server: VllmServer) -> set[str]:
    answer = httpx.get(f"{server.url}/v1/models", timeout=30.0, trust_env=False).raise_for_status()
    return {card["id"] for card in answer.json()["data"]}


def test_each_version_answers_under_its_own_name(server: VllmServer, truth: Truth) -> None:
    async def main() -> None:
        async with fleet_of(server) as fleet:
            for number in (1, 2):
                path = server.checkpoint(f"adapter_{number}")
                result = await fleet.load_lora("policy", path, version=number)
                (worker,) = result.workers
                assert (result.model, worker.state, worker.verified) == (f"policy-{number}", "running", True)
                found = await asyncio.to_thread(answering, server, truth, f"policy-{number}")
                assert found == {f"adapter_{number}"}
            assert listed(server) == {MODEL, "policy-2"}
            await fleet.unload_lora("policy")
            assert listed(server) == {MODEL}

    asyncio.run(main())
    assert answering(server, truth, MODEL) == {None}
    with pytest.raises(tito.NotFoundError):
        answering(server, truth, "policy-1")


def test_one_name_answers_as_the_adapter_that_was_loaded_last(server: VllmServer, truth: Truth) -> None:
    """The prompt is the same each time, so blocks that were cached under the name would show."""

    async def main() -> None:
        async with fleet_of(server) as fleet:
            for number in (1, 2, 1):
                await fleet.load_lora("one", server.checkpoint(f"adapter_{number}"), versioned=False, mode="wait")
                assert await asyncio.to_thread(answering, server, truth, "one") == {f"adapter_{number}"}
            await fleet.unload_lora("one")

    asyncio.run(main())


@pytest.mark.parametrize("name", ["missing", "dense_b", "base model's name"])
def test_a_refused_load_leaves_the_server_running(server: VllmServer, truth: Truth, name: str) -> None:
    path = server.checkpoint("adapter_1" if name == "base model's name" else name)

    async def main() -> None:
        async with fleet_of(server) as fleet:
            with pytest.raises(tito.AdminError) as refused:
                await fleet.load_lora(
                    MODEL if name == "base model's name" else "refused", path, versioned=False, check_files=False
                )
            (worker,) = refused.value.results
            assert (worker.state, worker.updated) == ("running", False)
        admin = await make_admin(server.url, "vllm", trust_env=False)
        assert isinstance(admin, VllmAdmin)
        assert await admin.is_paused() is False
        await admin.aclose()

    asyncio.run(main())
    assert answering(server, truth, MODEL) == {None}


def test_an_adapter_is_no_checkpoint(server: VllmServer, truth: Truth) -> None:
    async def main() -> None:
        async with fleet_of(server) as fleet:
            with pytest.raises(ValueError, match="load_lora"):
                await fleet.update_weights(server.checkpoint("adapter_1"))

    asyncio.run(main())
    assert answering(server, truth, MODEL) == {None}
