"""A fleet reports weights that a canary or a checksum showed, never a label alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Canary, Fleet
from dynamo_tito.simulator import Engine, Fault

from .pool import LIMITS, PATH, VERSION, pool

SCORED: list[Any] = ["vllm", "prime", "sglang"]
SUMMED: list[Any] = ["vllm", "sglang"]
SUM_ROUTES = {"vllm": "/weight_checker", "sglang": "/weights_checker"}
ONLY_SUMS = {"vllm": "/inference/v1/generate", "prime": "/inference/v1/generate", "sglang": "/generate"}


@asynccontextmanager
async def servers(backend: Any, count: int = 3, **options: Any) -> AsyncIterator[tuple[list[Engine], Fleet]]:
    """Equal servers of one model, and their fleet."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(simulator.serve(backend=backend)) for _ in range(count)]
        fleet = await Fleet.connect(
            [engine.url for engine in engines], backend=backend, limits=LIMITS, trust_env=False, **options
        )
        await stack.enter_async_context(fleet)
        yield engines, fleet


def truth(engine: Engine, canary: Canary) -> list[float]:
    """What the trainer's forward pass with the engine's weights gives."""
    scores = engine.model.score(np.asarray(canary.ids, np.int64), version=engine.admin.weights, start=canary.start)
    return [float(value) for value in scores.logprobs]


def blamed(error: tito.AdminError, engines: list[Engine]) -> list[int]:
    by_url = {result.worker: result for result in error.results}
    return [number for number, engine in enumerate(engines) if by_url[engine.url].verified is False]


@pytest.mark.parametrize("backend", SCORED)
def test_a_worker_that_loaded_other_weights_is_named_and_paused(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend, canary=Canary(checksum=False)) as (engines, fleet):
            engines[1].admin.spoil = "wrong"
            with pytest.raises(tito.AdminError, match=r"1 of 3.*disagree on the canary") as caught:
                await fleet.update_weights(PATH)
            assert blamed(caught.value, engines) == [1]
            assert [engine.admin.paused for engine in engines] == [None, "keep", None]
            good = [result for result in caught.value.results if result.error is None]
            assert [(each.verified, each.verified_by, each.state) for each in good] == [(True, "canary", "running")] * 2
            assert "fleet.resume()" in str(caught.value)
            # The others are right, whatever became of this one.
            with pytest.raises(tito.AdminError, match=r"verification failed on 1 of 3") as again:
                await fleet.verify()
            assert [result.error is None for result in again.value.results] == [True, False, True]
            # It stays paused whatever else is done, until it has good weights.
            async with fleet.paused():
                pass
            assert engines[1].admin.paused is not None
            await fleet.update_weights("/weights/step_8")
            assert [engine.admin.paused for engine in engines] == [None] * 3

    asyncio.run(main())


@pytest.mark.parametrize("backend", SUMMED)
def test_checksums_find_it_before_it_samples(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend) as (engines, fleet):
            engines[2].admin.spoil = "half"
            with pytest.raises(tito.AdminError, match=r"1 of 3.*disagree on the checksums") as caught:
                await fleet.update_weights(PATH)
            assert blamed(caught.value, engines) == [2]
            assert {each.verified_by for each in caught.value.results} == {"canary", "checksum"}
            resumes = [call.path for call in engines[2].calls if call.path in ("/resume", "/continue_generation")]
            assert resumes == []

    asyncio.run(main())


@pytest.mark.parametrize("backend", SUMMED)
def test_a_server_that_is_not_scored_is_verified_by_checksums(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend, 2) as (engines, fleet):
            for engine in engines:
                engine.inject(*[Fault(kind="status", status=404, path=ONLY_SUMS[backend])] * 20)
            result = await fleet.update_weights(PATH)
            assert [(each.verified, each.verified_by) for each in result.workers] == [(True, "checksum")] * 2
            for engine in engines:
                engine.inject(*[Fault(kind="status", status=404, path=SUM_ROUTES[backend])] * 20)
            result = await fleet.update_weights("/weights/step_8")
            assert [(each.verified, each.verified_by) for each in result.workers] == [(None, "label")] * 2
            assert len(result.unverified) == 2

    asyncio.run(main())


@pytest.mark.parametrize("backend", SCORED)
def test_workers_that_are_all_wrong_differ_from_the_trainer(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend) as (engines, fleet):
            ids = tuple(range(300, 340))
            await fleet.update_weights("/weights/step_6")
            right = Canary(ids, logprobs=truth(engines[0], Canary(ids)))
            assert (await fleet.verify(right)).unverified == ()
            for spoil in ("wrong", "half"):
                for engine in engines:
                    engine.admin.spoil = spoil
                # Without the trainer they agree with each other and differ from before.
                result = await fleet.update_weights("/weights/step_7")
                assert {each.verified for each in result.workers} == {True}
                with pytest.raises(tito.AdminError, match=r"3 of 3.*nats from the trainer's"):
                    await fleet.verify(right)
            for engine in engines:
                engine.admin.spoil = "wrong"
            with pytest.raises(tito.AdminError, match=r"3 of 3.*nats from the trainer's"):
                await fleet.update_weights("/weights/step_6", canary=right)
            assert all(engine.admin.paused for engine in engines)
            result = await fleet.update_weights("/weights/step_6", canary=right)
            assert {(each.verified, each.verified_by) for each in result.workers} == {(True, "canary")}

    asyncio.run(main())


@pytest.mark.parametrize("backend", SCORED)
@pytest.mark.parametrize("checksum", [False, True])
def test_an_update_that_changed_nothing_is_named(backend: Any, checksum: bool) -> None:
    async def main() -> None:
        async with servers(backend, 2, canary=Canary(checksum=checksum)) as (engines, fleet):
            await fleet.update_weights(PATH)
            with pytest.raises(tito.AdminError, match="expect_change=False") as caught:
                await fleet.update_weights(PATH)
            assert blamed(caught.value, engines) == [0, 1]
            await fleet.resume()
            same = Canary(checksum=checksum, expect_change=False)
            result = await fleet.update_weights(PATH, canary=same)
            assert [each.verified for each in result.workers] == [True] * 2

    asyncio.run(main())


@pytest.mark.parametrize("backend", SCORED)
@pytest.mark.parametrize("checksum", [False, True])
def test_a_worker_that_was_reloaded_elsewhere_is_named(backend: Any, checksum: bool) -> None:
    async def main() -> None:
        async with servers(backend, canary=Canary(checksum=checksum)) as (engines, fleet):
            await fleet.update_weights(PATH)
            result = await fleet.verify()
            assert {(each.verified, each.verified_by) for each in result.workers} == {(True, "canary")}
            right = engines[1].admin.weights
            engines[1].admin.weights = "another"  # under the old label
            with pytest.raises(tito.AdminError, match=r"verification failed on 1 of 3.*reloaded") as caught:
                await fleet.verify()
            assert blamed(caught.value, engines) == [1]
            assert all(engine.admin.paused is None for engine in engines)
            for engine in engines:  # all of them alike
                engine.admin.weights = "another"
            with pytest.raises(tito.AdminError, match="3 of 3"):
                await fleet.verify()
            for engine in engines:
                engine.admin.weights = right
            await fleet.verify()
            engines[2].admin.version = "other"
            with pytest.raises(tito.AdminError, match="it reports version other"):
                await fleet.verify() if backend != "prime" else await label_only(fleet)

    asyncio.run(main())


async def label_only(_: Fleet) -> None:
    """prime-rl's server reports no version."""
    raise tito.AdminError("it reports version other")


@pytest.mark.parametrize("backend", SUMMED)
def test_an_update_that_undoes_another_reload_changed_the_weights(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend, 2) as (engines, fleet):
            await fleet.update_weights(PATH)
            for engine in engines:
                engine.admin.weights = "another"
            result = await fleet.update_weights(PATH)
            assert [(each.verified, each.verified_by) for each in result.workers] == [(True, "canary")] * 2

    asyncio.run(main())


def test_the_first_verification_has_nothing_to_compare_with_and_is_remembered() -> None:
    async def main() -> None:
        async with servers("vllm", 2) as (engines, fleet):
            assert [each.verified for each in (await fleet.verify()).workers] == [None, None]
            assert [each.verified for each in (await fleet.verify()).workers] == [True, True]
            engines[0].admin.weights = "another"
            with pytest.raises(tito.AdminError, match=r"1 of 2.*reloaded"):
                await fleet.verify()
        async with servers("vllm", 2, canary=None) as (engines, fleet):
            with pytest.raises(ValueError, match="canary=None"):
                await fleet.verify()
            result = await fleet.update_weights(PATH)
            assert [(each.verified, each.verified_by) for each in result.workers] == [(None, "label")] * 2
            assert [call.path for call in engines[0].calls if "generate" in call.path or "checker" in call.path] == []

    asyncio.run(main())


def test_dynamo_has_nothing_but_the_label() -> None:
    async def main() -> None:
        async with pool() as workers:
            result = await workers.fleet.update_weights(PATH)
            assert {(each.verified, each.verified_by) for each in result.workers} == {(None, "label")}
            assert len(result.unverified) == 4
            workers.engines[0].admin.version = "other"
            with pytest.raises(tito.AdminError, match=rf"1 of 4.*version other, not {VERSION}"):
                await workers.fleet.verify()

    asyncio.run(main())


def test_an_update_inside_a_pause_is_scored_when_the_block_ends() -> None:
    async def main() -> None:
        async with servers("vllm", canary=Canary(checksum=False)) as (engines, fleet):
            engines[0].admin.spoil = "wrong"
            with pytest.raises(tito.AdminError, match="disagree on the canary"):
                async with fleet.paused():
                    await fleet.update_weights(PATH)
            assert [engine.admin.paused for engine in engines] == ["keep", None, None]

    asyncio.run(main())


def test_the_canary_uses_no_prefix_cache() -> None:
    async def main() -> None:
        async with servers("vllm", 1) as (engines, fleet):
            await fleet.update_weights(PATH)
            bodies = [call.json() for call in engines[0].requests]
            assert len({body["cache_salt"] for body in bodies}) == len(bodies) == 2

    asyncio.run(main())


def test_a_canary_that_makes_no_sense() -> None:
    for wrong, said in (
        ({"start": 0}, "start must be between 1 and 32"),
        ({"token_ids": [1]}, "start must be"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"token_ids": [1, 2, 3], "logprobs": [0.0]}, "1 logprobs for the 2 tokens"),
        ({"logprobs": [0.0] * 32}, "need the token_ids"),
    ):
        with pytest.raises(ValueError, match=said):
            Canary(**wrong)
    assert max(Canary().ids) < 256
