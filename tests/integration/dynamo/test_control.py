"""The control plane against the real Dynamo system server: two workers, one of which is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynamo_tito as tito
from dynamo_tito.control import Fleet, FleetLimits, PhaseLimit, Workers, detect_backend, discover_workers, examine
from support.dynamo_stack import DynamoStack

LIMIT = PhaseLimit(5.0, 10.0)
LIMITS = FleetLimits(
    gate=LIMIT, pause=LIMIT, update=LIMIT, verify=LIMIT, flush=LIMIT, resume=LIMIT, attempts=3, wait=0.1
)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoStack]:
    """A stack of this module's own: it loses a worker."""
    installed = Path(os.environ["DYNAMO_DIR"]).resolve()
    directory = tmp_path_factory.mktemp("dynamo")
    for name in ("venv", "model"):
        (directory / name).symlink_to(installed / name)
    with DynamoStack(directory, num_workers=2) as stack:
        yield stack


def test_the_verbs_and_a_worker_that_is_killed(two_workers: DynamoStack) -> None:
    stack = two_workers

    async def main() -> None:
        async with Workers(stack.url, rl_base_url=stack.rl_url, model=stack.model, trust_env=False) as waiting:
            await waiting.wait_ready(30.0)
            assert {worker.system_url for worker in waiting} == {worker.system_url for worker in stack.workers}
            assert all(worker.identity.instance_id > 2**53 for worker in waiting)
        assert await detect_backend(stack.workers[0].system_url, trust_env=False) == "dynamo"
        assert await detect_backend(stack.url, trust_env=False) == "dynamo"

        async with await Fleet.connect(
            stack.url, rl_base_url=stack.rl_url, model=stack.model, limits=LIMITS, expected_world_size=2,
            trust_env=False,
        ) as fleet:  # fmt: skip
            assert set((await fleet.versions()).values()) == {None}
            result = await fleet.update_weights("/weights/step_1")
            assert [(each.version, each.verified, each.verified_by, each.state) for each in result.workers] == [
                ("step_1", None, "label", "running")
            ] * 2
            async with fleet.paused():
                await fleet.update_weights("/weights/step_2", mode="wait")
            result = await fleet.update_weights(3, engine_rpc="update_weights_from_path")
            assert {each.version_before for each in result.workers} == {"step_2"}
            assert {each.version for each in result.workers} == {"3"}

            first, second = stack.workers
            first.control(fail_admin={"update_weights_from_disk": "no such checkpoint"})
            with pytest.raises(tito.AdminError, match=r"1 of 2 workers.*no such checkpoint") as refused:
                await fleet.update_weights("/weights/step_4")
            assert sorted((each.version, each.state) for each in refused.value.results) == [
                ("3", "unknown"), ("step_4", "running")
            ]  # fmt: skip
            first.control()
            await fleet.update_weights("/weights/step_5")

            def kill() -> None:
                second.process.kill()
                second.process.wait()

            with pytest.raises(tito.AdminError, match="failed on 1 of 2 workers") as killed:
                await fleet.update_weights("/weights/step_6", before_update=kill)
            states = {each.worker.rpartition(" at ")[2]: each for each in killed.value.results}
            left, dead = states[first.system_url], states[second.system_url]
            assert (left.version, left.verified_by, left.state, left.error) == ("step_6", "label", "running", None)
            assert (dead.version, dead.verified, dead.state) == (None, None, "unknown")
            assert isinstance(dead.error, tito.TransportError)

            # Listed with an error for some seconds: the membership fails closed.
            with pytest.raises(tito.AdminError, match="1 of 2 workers as broken"):
                await discover_workers(stack.url, rl_base_url=stack.rl_url, trust_env=False)
            stack.start_worker(2)
            async with Workers(stack.url, rl_base_url=stack.rl_url, expected_world_size=2, trust_env=False) as again:
                await again.wait_ready(60.0)
                assert len(again) == 2
            result = await fleet.update_weights("/weights/step_7")
            assert [(each.version, each.state) for each in result.workers] == [("step_7", "running")] * 2

    asyncio.run(main())


def test_the_doctor_on_the_real_dynamo(dynamo_stack: DynamoStack) -> None:
    found = asyncio.run(examine(dynamo_stack.url, rl_base_url=dynamo_stack.rl_url, trust_env=False))
    assert (found.name, found.version, found.model) == ("Dynamo", None, dynamo_stack.model)
    assert [each for each in found.findings if each.verdict == "change"] == []
    said = [f"{each.topic}: {each.found}" for each in found.findings]
    assert "dynamo_chat: refuses routed_experts_prompt_start: the clients ask without, and trim" in said
    assert "vllm_generate: honours routed_experts_prompt_start" in said
    assert any(line.startswith("dynamo_chat: streams on request") for line in said)
    assert any(line.startswith("dynamo_completions: streams on request") for line in said)
    assert "vllm_generate: refuses streams (HTTP 501)" in said
    assert "context length: 262,144 tokens" in said
    assert any(line.startswith("discovery: 1 workers") for line in said)
