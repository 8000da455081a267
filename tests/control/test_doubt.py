"""An update that may have begun and did not end well is not repeated. The worker is held until its state is known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Canary, Fleet
from dynamo_tito.simulator import Fault

from .pool import LIMITS, PATH, UPDATE, pool
from .test_truth import SCORED, servers

pytestmark = pytest.mark.long

ROUTES = {
    "dynamo": f"/engine/{UPDATE}", "vllm": "/collective_rpc", "prime": "/update_weights",
    "sglang": f"/{UPDATE}",
}  # fmt: skip


@pytest.mark.parametrize("backend", SCORED)
def test_a_destroyed_engine_is_held_and_asked_once(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend) as (engines, fleet):
            for engine in engines[:2]:
                engine.admin.spoil = "destroy"
            with pytest.raises(tito.AdminError, match=r"2 of 3.*held paused.*fleet\.resume\(\)") as caught:
                await fleet.update_weights("/none/at/all", check_files=False)
            sent = [[call.path for call in engine.calls].count(ROUTES[backend]) for engine in engines]
            assert sent == [1, 1, 1]
            assert [engine.admin.paused is None for engine in engines] == [False, False, True]
            for result in caught.value.results[:2]:
                assert (result.state, result.updated, result.verified) == ("unknown", None, None)
            # Neither a block nor an adapter resumes them.
            async with fleet.paused():
                pass
            await fleet.load_lora("adapter", "/weights/lora")
            assert [engine.admin.paused is None for engine in engines] == [False, False, True]
            result = await fleet.update_weights(PATH)
            assert {each.state for each in result.workers} == {"running"}
            assert [engine.admin.paused for engine in engines] == [None] * 3

    asyncio.run(main())


def test_dynamo_answers_200_to_a_load_that_failed_half_way() -> None:
    async def main() -> None:
        async with pool() as workers:
            for engine in workers.engines:
                engine.admin.spoil = "destroy"
            with pytest.raises(tito.AdminError, match="4 of 4"):
                await workers.fleet.update_weights(PATH, check_files=False)
            assert len(workers.times(UPDATE)) == 4
            assert [engine.admin.paused for engine in workers.engines] == ["keep"] * 4
            await workers.fleet.resume()  # the caller's word
            assert [engine.admin.paused for engine in workers.engines] == [None] * 4

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["dynamo", *SCORED])
@pytest.mark.parametrize("fault", ["500", "502", "reset", "timeout"])
def test_what_may_have_begun_is_sent_once(backend: Any, fault: str) -> None:
    async def main() -> None:
        async with simulator.serve(backend=backend) as engine:
            kinds: dict[str, Any] = {"500": {"kind": "status"}, "502": {"kind": "status", "status": 502},
                                     "reset": {"kind": "reset"}, "timeout": {"kind": "stall"}}  # fmt: skip
            engine.inject(Fault(phase="request", path=ROUTES[backend], **kinds[fault]))
            async with await Fleet.connect(
                engine.url, backend=backend, rl_base_url=engine.rl_url if backend == "dynamo" else None,
                limits=LIMITS, trust_env=False, canary=Canary(checksum=False),
            ) as fleet:  # fmt: skip
                with pytest.raises(tito.AdminError, match="may have begun") as caught:
                    await fleet.update_weights(PATH)
                assert [call.path for call in engine.calls].count(ROUTES[backend]) == 1
                assert engine.admin.paused is not None
                (result,) = caught.value.results
                assert (result.state, result.updated) == ("unknown", None)

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_checksums_show_that_it_did_not_begin(backend: Any) -> None:
    async def main() -> None:
        async with servers(backend, 2) as (engines, fleet):
            engines[0].inject(Fault(kind="status", phase="request", path=ROUTES[backend]))
            engines[1].inject(Fault(kind="status", phase="request", path=ROUTES[backend]))
            with pytest.raises(tito.AdminError) as caught:
                await fleet.update_weights(PATH)
            assert [(each.updated, each.state) for each in caught.value.results] == [(False, "running")] * 2
            assert [engine.admin.paused for engine in engines] == [None] * 2

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["dynamo", *SCORED])
def test_what_certainly_did_not_begin_is_sent_again(backend: Any) -> None:
    async def main() -> None:
        async with simulator.serve(backend=backend) as engine:
            engine.inject(Fault(kind="status", status=429, phase="request", path=ROUTES[backend]))
            async with await Fleet.connect(
                engine.url, backend=backend, rl_base_url=engine.rl_url if backend == "dynamo" else None,
                limits=LIMITS, trust_env=False,
            ) as fleet:  # fmt: skip
                result = await fleet.update_weights(PATH)
                assert [each.updated for each in result.workers] == [True]
                assert [call.path for call in engine.calls].count(ROUTES[backend]) == 2

    asyncio.run(main())


def test_resume_all_resumes_held_workers() -> None:
    async def main() -> None:
        async with servers("vllm", 2) as (engines, fleet):
            engines[0].admin.spoil = "destroy"
            with pytest.raises(tito.AdminError):
                await fleet.update_weights(PATH, policy="resume_all")
            assert [engine.admin.paused for engine in engines] == [None] * 2

    asyncio.run(main())


# --- caches and sessions ---


def test_every_cache_of_vllm_is_emptied() -> None:
    async def main() -> None:
        async with servers("vllm", 1) as (engines, fleet):
            await fleet.update_weights(PATH)
            assert engines[0].admin.emptied == {"external": 1, "mm": 1, "encoder": 1}
            assert engines[0].admin.cache_flushes == 1
            await fleet.update_weights("/weights/step_8", flush=False)
            assert engines[0].admin.cache_flushes == 1
            for route in ("/reset_mm_cache", "/reset_encoder_cache"):
                engines[0].inject(Fault(kind="status", status=404, path=route))
            await fleet.update_weights("/weights/step_9")  # a server without the routes
            engines[0].inject(*[Fault(kind="status", path="/reset_mm_cache")] * 2)
            with pytest.raises(tito.AdminError, match="reset_mm_cache") as caught:
                await fleet.update_weights("/weights/step_10")
            assert caught.value.results[0].updated is True
            assert engines[0].admin.paused == "keep"

    asyncio.run(main())


def test_sglang_that_updated_and_did_not_flush_is_flushed_and_resumed() -> None:
    async def main() -> None:
        async with servers("sglang", 1) as (engines, fleet):
            engines[0].inject(Fault(kind="updated_not_flushed"))
            result = await fleet.update_weights(PATH, flush=False)
            assert [(each.updated, each.verified, each.state) for each in result.workers] == [(True, True, "running")]
            assert engines[0].admin.cache_flushes == 1
            assert engines[0].admin.version == "step_7"

            engines[0].inject(Fault(kind="updated_not_flushed"))
            refused = Fault(kind="status", status=400, message="pending requests", path="/flush_cache")
            engines[0].inject(*[refused] * 2)
            with pytest.raises(tito.AdminError, match="pending requests") as caught:
                await fleet.update_weights("/weights/step_8")
            assert (caught.value.results[0].updated, caught.value.results[0].state) == (True, "paused")
            assert engines[0].admin.paused is not None

    asyncio.run(main())


def test_a_flush_that_is_refused_while_requests_drain_is_tried_again() -> None:
    async def main() -> None:
        async with servers("sglang", 1) as (engines, fleet):
            engines[0].inject(Fault(kind="status", status=400, message="pending requests", path="/flush_cache"))
            result = await fleet.update_weights(PATH)
            assert result.failed == ()
            assert [call.path for call in engines[0].calls].count("/flush_cache") == 2

    asyncio.run(main())


@pytest.mark.parametrize("route", ["/update_weights", "/finish_weight_update"])
@pytest.mark.parametrize("fault", ["status", "stall"])
def test_a_session_that_was_left_open_is_finished_first(route: str, fault: Any) -> None:
    async def main() -> None:
        async with servers("vllm", 1) as (engines, fleet):
            engines[0].inject(Fault(kind=fault, phase="request", path=route))
            with pytest.raises(tito.AdminError, match="may have begun"):
                await fleet.update_weights(7)
            assert [call.path for call in engines[0].calls].count(route) <= 2
            result = await fleet.update_weights(8)
            assert [(each.version, each.state) for each in result.workers] == [("8", "running")]
            assert not engines[0].admin.updating
            # Another client's session, before weights from disk and before a collective update.
            engines[0].admin.updating = True
            await fleet.update_weights(9)
            assert not engines[0].admin.updating

    asyncio.run(main())
