"""The administration of one worker: the requests that each backend gets, and the answers that are failures."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, get_args

import pytest

import dynamo_tito as tito
from dynamo_tito import control, simulator
from dynamo_tito.control import AdminApi, WeightGroup, WeightUpdate, make_admin
from dynamo_tito.simulator import Backend, Fault

GROUP = WeightGroup("trainer", 29_500, 9, 3, trainer_ranks=2, name="g")
BACKENDS = get_args(Backend)


def asked(backend: Any, work: Any) -> list[tuple[str, str, Any]]:
    """What a worker was sent while ``work`` had its administration: (method, path, body)."""

    async def main() -> list[tuple[str, str, Any]]:
        async with simulator.serve(backend=backend) as engine:
            admin = await make_admin(engine.system_url, backend, openai_url=engine.url, trust_env=False)
            assert isinstance(admin, AdminApi)
            assert repr(admin) == f"{type(admin).__name__}('{engine.system_url}')"
            await work(admin, engine)
            await admin.aclose()
            return [(call.method, call.path, call.json() if call.body else None) for call in engine.calls]

    return asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
def test_alive_paused_and_named(backend: Any) -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        await admin.health()
        assert await admin.models() == ("tito-model",)
        knows = backend in ("vllm", "prime")
        assert await admin.is_paused() is (False if knows else None)
        for _ in range(2):
            await admin.pause("abort", clear_cache=True)
        assert [engine.admin.paused] == ["abort"]
        assert await admin.is_paused() is (True if knows else None)
        for _ in range(2):
            await admin.resume()
        assert [engine.admin.paused] == [None]
        flushed = engine.admin.cache_flushes
        await admin.flush_cache()
        assert engine.admin.cache_flushes == flushed + 1
        await admin.abort("some-id")

    asked(backend, work)


GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamo": (
        "/engine/init_weights_update_group",
        {"engine_rpc": "init_broadcaster", "host": "trainer", "port": 29_500, "rank_offset": 1,
         "inference_world_size": 7, "timeout": 300.0},
    ),
    "vllm": (
        "/init_weight_transfer_engine",
        {"init_info": {"master_address": "trainer", "master_port": 29_500, "rank_offset": 3, "world_size": 9}},
    ),
    "prime": (
        "/init_broadcaster",
        {"host": "trainer", "port": 29_500, "rank_offset": 1, "inference_world_size": 7, "timeout": 300.0},
    ),
    "sglang": (
        "/init_weights_update_group",
        {"master_address": "trainer", "master_port": 29_500, "rank_offset": 3, "world_size": 9, "group_name": "g",
         "backend": "nccl"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_are_counted_as_each_backend_counts(backend: Any) -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        await admin.init_weight_group(GROUP)
        assert engine.admin.weight_group
        if backend == "prime":
            with pytest.raises(NotImplementedError):
                await admin.destroy_weight_group()
        else:
            await admin.destroy_weight_group()
            assert not engine.admin.weight_group

    path, body = GROUPS[backend]
    sent = asked(backend, work)
    assert ("POST", path, body) in sent
    if backend == "sglang":
        assert sent[-1] == ("POST", "/destroy_weights_update_group", {"group_name": "g"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_a_200_is_an_error(backend: Any) -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        for body in (b'{"status":"error","message":"no"}', b'{"success":false,"message":"no"}', b'{"error":"no"}'):
            engine.inject(*[Fault(kind="error_body", phase="request", path=route, body=body)
                            for route in ("pause", "pause_generation")])  # fmt: skip
            with pytest.raises(tito.ServerError, match="no") as caught:
                await admin.pause()
            assert caught.value.status == 200
            assert engine.system_url in str(caught.value)
            engine.faults.clear()
        assert engine.admin.paused is None

    asked(backend, work)


def test_an_answer_that_is_neither_is_an_error_of_dynamo() -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        for body in (b"{}", b"[]", b'{"status":"maybe"}', b"html", b""):
            engine.inject(Fault(kind="error_body", phase="request", path="resume_generation", body=body))
            with pytest.raises(tito.ServerError, match="neither ok nor an error"):
                await admin.resume()
        engine.inject(Fault(kind="error_body", phase="request", path="liveness_probe", body=b'{"status":"ok"}'))
        with pytest.raises(tito.ServerError, match="not alive"):
            await admin.health()

    asked("dynamo", work)


def test_a_cache_that_running_requests_hold_is_flushed() -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        engine.admin.in_flight = 1
        await admin.flush_cache()
        assert engine.admin.cache_flushes == 1

    asked("vllm", work)


def test_what_a_backend_lacks_is_refused_unsent() -> None:
    async def dynamo(admin: AdminApi, _: simulator.Engine) -> None:
        with pytest.raises(NotImplementedError, match="pause"):
            await admin.abort()
        bare = control.DynamoAdmin(admin.url)
        with pytest.raises(ValueError, match="openai_url"):
            await bare.models()
        await bare.aclose()

    async def sglang(admin: AdminApi, _: simulator.Engine) -> None:
        with pytest.raises(NotImplementedError, match="does not wait"):
            await admin.pause("wait")

    assert asked("dynamo", dynamo) == asked("sglang", sglang) == []
    with pytest.raises(ValueError, match="absolute path"):
        WeightUpdate("7", "weights")
    with pytest.raises(ValueError, match="version"):
        WeightUpdate("")
    with pytest.raises(ValueError, match="backend must be one of"):
        asyncio.run(make_admin("http://x", "tgi"))  # type: ignore[arg-type]


def test_weights_of_vllm_from_disk_are_a_collective_rpc() -> None:
    async def work(admin: AdminApi, engine: simulator.Engine) -> None:
        await admin.update_weights(WeightUpdate("7", "/w/7"))
        assert await admin.weight_version() == "7"
        assert await admin.world_size() == 1
        engine.inject(Fault(kind="error_body", phase="request", path="collective_rpc", body=b'{"results":["oops"]}'))
        with pytest.raises(tito.ServerError, match="oops"):
            await admin.update_weights(WeightUpdate("8", "/w/8"))
        assert await admin.weight_version() == "7"

    sent = asked("vllm", work)
    assert sent[0] == (
        "POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "/w/7"}}
    )  # fmt: skip


def test_what_is_public_is_documented() -> None:
    assert control.__all__ == sorted(control.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in control.__all__:
        value = getattr(control, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
