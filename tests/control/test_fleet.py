"""The verbs of the fleet: their requests, their refusals, their results."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any, get_args

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Fleet, FleetLimits, PhaseLimit
from dynamo_tito.simulator import Backend, Fault

from .pool import LIMITS, PATH, UPDATE, VERSION, pool, until

STOCK: list[Any] = ["vllm", "prime", "sglang"]
OPTIONS: dict[str, dict[str, Any]] = {
    "vllm": {"names": ["w"], "dtype_names": ["float32"], "shapes": [[1]]},
    "prime": {},
    "sglang": {"names": ["w"], "dtypes": ["float32"], "shapes": [[1]], "group_name": "weights"},
}


@pytest.mark.parametrize("backend", STOCK)
def test_the_verbs_of_other_backends(backend: Any) -> None:
    async def main() -> None:
        async with (
            simulator.serve(backend=backend) as one,
            simulator.serve(backend=backend) as two,
            await Fleet.connect(
                [one.url, two.url + "/v1"], model="tito-model", limits=LIMITS, trust_env=False
            ) as fleet,
        ):
            readable = backend != "prime"
            for source, options in ((PATH, {}), (8, OPTIONS[backend])):
                result = await fleet.update_weights(source, options=options)
                expected = str(source).rpartition("/")[2]
                assert fleet.version == expected
                for engine, worker in zip((one, two), result.workers, strict=True):
                    assert engine.admin.paused is None
                    assert engine.admin.cache_flushes >= 1
                    assert worker.updated
                    assert (worker.verified, worker.verified_by) == (True, "canary")
                    assert worker.version == (expected if readable else None)
                assert result.unverified == ()
            for _ in range(2):
                await fleet.load_lora("adapter", "/weights/lora")
                assert one.admin.adapters == two.admin.adapters == {"adapter-lora": "/weights/lora"}
            await fleet.unload_lora("adapter")
            assert one.admin.adapters == {}
            async with fleet.paused(mode="abort"):
                assert one.admin.paused == two.admin.paused == "abort"
            assert one.admin.paused is None

    asyncio.run(main())


def test_ranks_are_distinct_and_add_up() -> None:
    async def main() -> None:
        async with simulator.serve(world_size=2) as one, simulator.serve(seed=1, world_size=4) as two:
            one.join(two)
            async with await Fleet.connect(one.url, backend="dynamo", rl_base_url=one.rl_url, limits=LIMITS,
                                           expected_world_size=6, trust_env=False) as fleet:  # fmt: skip
                with pytest.raises(ValueError, match="7 ranks, world_size is 6"):
                    await fleet.init_weight_group("trainer", 29_500, 6)
                assert not one.admin.weight_group
                await fleet.init_weight_group("trainer", 29_500, 7)
                bodies = [
                    record.json()
                    for engine in sorted((one, two), key=lambda engine: engine.instance_id)
                    for record in engine.calls
                    if record.path.endswith("init_weights_update_group")
                ]
                first = min((one, two), key=lambda engine: engine.instance_id).config.world_size
                assert [body["rank_offset"] for body in bodies] == [0, first]
                assert [body["inference_world_size"] for body in bodies] == [6, 6]
                await fleet.destroy_weight_group()
                assert not one.admin.weight_group

                two.inject(Fault(kind="status", path="/engine/init_weights_update_group"))
                with pytest.raises(tito.AdminError):
                    await fleet.init_weight_group("trainer", 29_500, 7)
                assert not one.admin.weight_group
                assert sum(record.path.endswith("init_weights_update_group") for record in two.calls) == 2

    asyncio.run(main())


def test_a_collective_update_is_sent_once() -> None:
    async def main() -> None:
        async with pool() as workers:
            workers.engines[1].inject(Fault(kind="status", path="/engine/update_weights_from_distributed"))
            with pytest.raises(tito.AdminError) as caught:
                await workers.fleet.update_weights(7, engine_rpc="receive", policy="resume_all")
            sent = [record for record in workers.admin_calls() if "distributed" in record.path]
            assert len(sent) == 4
            assert all(record.json() == {"weight_version": "7", "engine_rpc": "receive"} for record in sent)
            assert [result.updated for result in caught.value.results].count(True) == 3
            assert all(engine.admin.paused is None for engine in workers.engines)
            assert pickle.loads(pickle.dumps(caught.value)).results[0].worker == caught.value.results[0].worker
            assert workers.fleet.version is None

    asyncio.run(main())


@pytest.mark.parametrize(("policy", "paused"), [("resume_updated", 1), ("resume_all", 0), ("keep_paused", 4)])
def test_the_policy_of_a_half_updated_fleet(policy: Any, paused: int) -> None:
    async def main() -> None:
        async with pool() as workers:
            body = b'{"status":"error","message":"no such file"}'
            workers.engines[3].inject(Fault(kind="error_body", phase="request", path=f"/engine/{UPDATE}", body=body))
            with pytest.raises(tito.AdminError, match=r"update to step_7 failed on 1 of 4 workers.*no such file"):
                await workers.fleet.update_weights(PATH, policy=policy)
            assert [engine.admin.paused for engine in workers.engines].count("keep") == paused
            # The refused one is sent once: the worker said no, and would again.
            assert len(workers.times(UPDATE)) == 4
            await workers.fleet.resume()
            assert all(engine.admin.paused is None for engine in workers.engines)
            await workers.fleet.update_weights(PATH)
            assert all(engine.admin.version == VERSION for engine in workers.engines)

    asyncio.run(main())


def test_all_workers_resume_if_none_was_updated() -> None:
    async def main() -> None:
        async with pool() as workers:
            body = b'{"status":"error","message":"Worker must be paused via pause_generation()"}'
            for engine in workers.engines:
                engine.inject(Fault(kind="error_body", phase="request", path=f"/engine/{UPDATE}", body=body))
            with pytest.raises(tito.AdminError):
                await workers.fleet.update_weights(PATH, policy="keep_paused")
            assert all(engine.admin.paused is None for engine in workers.engines)

    asyncio.run(main())


def test_a_worker_replaced_elsewhere_is_named() -> None:
    async def main() -> None:
        async with pool() as workers, simulator.serve(seed=50) as other:
            workers.engines[0].inject(Fault(kind="die", path=f"/engine/{UPDATE}"))

            def replace() -> None:
                workers.registry.members = [*workers.engines[1:], other]

            with pytest.raises(tito.AdminError) as caught:
                await workers.fleet.update_weights(PATH, before_update=replace)
            assert f"{other.instance_id} joined in between" in str(caught.value)
            assert "no connection" in str(caught.value)
            assert all(engine.admin.paused is None for engine in (*workers.engines[1:], other))

            result = await workers.fleet.update_weights(PATH)
            assert len(result.workers) == 4
            assert other.admin.version == VERSION

    asyncio.run(main())


def test_an_update_inside_a_pause_uses_it() -> None:
    async def main() -> None:
        async with pool() as workers:
            async with workers.fleet.paused(), workers.fleet.paused():
                await asyncio.gather(
                    workers.fleet.update_weights("/weights/step_6"), workers.fleet.load_lora("a", "/weights/a")
                )
                assert all(engine.admin.paused == "keep" for engine in workers.engines)
                assert not workers.fleet._open.is_set()
                await workers.fleet.update_weights(PATH)
            await asyncio.wait_for(workers.fleet.wait_open(), 1)
            assert len(workers.times("pause_generation")) == len(workers.times("resume_generation")) == 4
            assert set((await workers.fleet.versions()).values()) == {VERSION}

    asyncio.run(main())


def test_a_pause_that_fails_does_not_enter_the_block() -> None:
    async def main() -> None:
        async with pool() as workers:
            fault = Fault(kind="status", phase="sampled", path="/engine/pause_generation")
            workers.engines[2].inject(*[fault] * 9)
            with pytest.raises(tito.AdminError, match="pause failed on 1 of 4"):
                async with workers.fleet.paused():
                    raise AssertionError
            assert all(engine.admin.paused is None for engine in workers.engines)

    asyncio.run(main())


def test_what_before_update_raises_is_raised_and_nothing_is_updated() -> None:
    async def main() -> None:
        async with pool() as workers:
            seen: list[bool] = []

            async def before() -> None:
                seen.append(all(engine.admin.paused == "wait" for engine in workers.engines))
                raise KeyError("trainer")

            with pytest.raises(KeyError, match="trainer"):
                await workers.fleet.update_weights(PATH, mode="wait", before_update=before)
            assert seen == [True]
            assert workers.times(UPDATE) == []
            assert all(engine.admin.paused is None for engine in workers.engines)

    asyncio.run(main())


def test_wrong_arguments_send_nothing() -> None:
    async def main() -> None:
        async with pool() as workers:
            before = len(workers.admin_calls())
            for wrong in ({"source": "relative/path"}, {"source": ""}, {"source": "7", "version": "8"},
                          {"source": PATH, "policy": "hope"}, {"source": PATH, "mode": "softly"}):  # fmt: skip
                with pytest.raises(ValueError, match=r"."):
                    await workers.fleet.update_weights(**wrong)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="absolute"):
                await workers.fleet.load_lora("a", "b/c")
            assert len(workers.admin_calls()) == before
        with pytest.raises(ValueError, match="at least one"):
            Fleet([])
        with pytest.raises(ValueError, match="attempt <= total"):
            PhaseLimit(2.0, 1.0)
        with pytest.raises(ValueError, match="attempts"):
            FleetLimits(attempts=0)

    asyncio.run(main())


@pytest.mark.long
def test_control_never_queues_behind_generation() -> None:
    async def main() -> None:
        async with simulator.serve(backend="vllm", latency=30.0) as engine:
            client = tito.connect(engine.url, backend="vllm", model=None, max_concurrency=1, trust_env=False)
            async with client, await Fleet.connect(engine.url, limits=LIMITS, trust_env=False) as fleet:
                call = asyncio.create_task(client.generate([1, 2, 3]))
                await until(lambda: engine.admin.in_flight == 1)
                await fleet.update_weights(PATH)
                assert engine.admin.version == VERSION
                call.cancel()

    asyncio.run(main())


def test_one_setting_chooses_the_transport_and_the_administration() -> None:
    async def main() -> None:
        for backend in get_args(Backend):
            async with simulator.serve(backend=backend) as engine:
                client = tito.connect(engine.url, backend=backend, model="tito-model", api_key="sk", trust_env=False)
                rl_url = engine.rl_url if backend == "dynamo" else None
                async with client, await client.fleet(rl_base_url=rl_url) as fleet:
                    await fleet.update_weights(PATH)
                    completion = await client.generate([1, 2, 3])
                    assert len(completion.token_ids) == 16
                    assert {engine.last.headers["authorization"]} == {"Bearer sk"}
                assert len([call for call in engine.calls if "pause" in call.path]) >= 1

    asyncio.run(main())


def test_an_elastic_pool_admits_workers_that_hold_the_weights() -> None:
    async def main() -> None:
        async with pool(2) as workers, simulator.serve(seed=50) as late, simulator.serve(seed=51, model="x") as alien:
            await workers.fleet.update_weights(PATH)
            reports = workers.fleet.watch(0.01)
            assert len((await anext(reports)).admitted) == 2
            late.inject(*[Fault(kind="status", path="/engine/liveness_probe")] * 3)
            workers.registry.members = [*workers.engines, late, alien]
            waiting = await anext(reports)
            assert waiting.joined == ()
            assert [str(worker.identity.instance_id) for worker, _ in waiting.waiting if worker] == [
                str(late.instance_id)
            ]
            admitted = await anext(reports)
            assert [worker.identity.instance_id for worker in admitted.joined] == [late.instance_id]
            assert (late.admin.version, late.admin.paused) == (VERSION, None)
            workers.engines[0].restart()
            again = await anext(reports)
            assert len(again.joined) == len(again.left) == 1
            assert workers.engines[0].admin.version == VERSION
            await workers.engines[1].stop()
            gone = await anext(reports)
            assert len(gone.left) == 1
            assert gone.waiting[0][1].startswith("Unavailable")
            await reports.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
