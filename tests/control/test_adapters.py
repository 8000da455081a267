"""Adapters on every backend: their names, which of them count as loaded, and the state after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, get_args

import pytest

from dynamo_tito import AdminError, simulator
from dynamo_tito.control import Fleet
from dynamo_tito.simulator import Backend, Engine, Fault

from .pool import LIMITS

BACKENDS = get_args(Backend)
LOAD = {"dynamo": "/load_lora", "vllm": "/load_lora_adapter", "prime": "/load_lora_adapter",
        "sglang": "/load_lora_adapter"}  # fmt: skip
SUCCESS = {
    "dynamo": b'{"status":"success","message":"LoRA adapter loaded successfully"}',
    "vllm": b"Success: LoRA adapter added successfully.",
    "prime": b'{"status":"ok"}',
    "sglang": b'{"success":true,"error_message":null}',
}
Work: TypeAlias = Callable[[Fleet, list[Engine]], Awaitable[None]]


@asynccontextmanager
async def fleet_of(backend: Any, count: int = 1) -> AsyncIterator[tuple[Fleet, list[Engine]]]:
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(simulator.serve(backend=backend, seed=number)) for number in range(count)
        ]
        fleet = await Fleet.connect(
            [engine.url for engine in engines], backend=backend, limits=LIMITS, trust_env=False,
            admin_base_url=[engine.system_url for engine in engines] if backend == "dynamo" else None,
        )  # fmt: skip
        yield await stack.enter_async_context(fleet), engines


def with_fleet(backend: Any, work: Work, count: int = 1) -> None:
    async def main() -> None:
        async with fleet_of(backend, count) as (fleet, engines):
            await work(fleet, engines)

    asyncio.run(main())


def held(engine: Engine) -> dict[str, str]:
    """The engine's adapters; Dynamo has them by URI."""
    return {name: path.removeprefix("file://") for name, path in engine.admin.adapters.items()}


def routes(engine: Engine) -> list[str]:
    """The last part of each route that was asked to change something."""
    return [call.path.partition("?")[0].rpartition("/")[2] for call in engine.calls if call.method == "POST"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_version_follows_the_other_and_the_old_one_goes_last(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        for version in (1, 2):
            result = await fleet.load_lora("ad", f"/l/step_{version}", version=version)
            assert result.model == f"ad-{version}"
            assert fleet.adapters == {"ad": result.model}
            for engine, worker in zip(engines, result.workers, strict=True):
                assert held(engine) == {f"ad-{version}": f"/l/step_{version}"}
                assert (worker.updated, worker.verified, worker.verified_by) == (True, True, "list")
                assert engine.admin.paused is None
        for engine in engines:
            names = [name for name in routes(engine) if "lora" in name or name.startswith(("resume", "continue"))]
            resume = "continue_generation" if backend == "sglang" else names[1]
            unload = "unload_lora" if backend == "dynamo" else "unload_lora_adapter"
            assert names == [names[0], resume, names[0], resume, unload]
        await fleet.unload_lora("ad")
        assert [held(engine) for engine in engines] == [{}, {}]
        assert fleet.adapters == {}

    with_fleet(backend, work, count=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_name_is_unloaded_before_it_is_loaded_again(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        (engine,) = engines
        for path in ("/l/1", "/l/2", "/l/2"):
            flushed = engine.admin.cache_flushes
            result = await fleet.load_lora("ad", path, versioned=False)
            assert result.model == "ad"
            assert held(engine) == {"ad": path}
            assert (result.workers[0].updated, result.workers[0].verified) == (True, True)
            assert engine.admin.cache_flushes > flushed
        assert sum(name.startswith("unload") for name in routes(engine)) == 2
        assert all("load_inplace" not in call.json() for call in engine.calls if call.path.endswith(LOAD[backend]))

    with_fleet(backend, work)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_that_another_client_loaded(backend: Any, *, versioned: bool) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        engines[0].admin.adapters["ad"] = "/l/old"
        result = await fleet.load_lora("ad", "/l/new", versioned=versioned)
        assert held(engines[0]) == ({"ad": "/l/old", "ad-new": "/l/new"} if versioned else {"ad": "/l/new"})
        assert result.model == ("ad-new" if versioned else "ad")

    with_fleet(backend, work)


def test_the_default_name_has_the_last_part_of_the_path_but_on_dynamo() -> None:
    for backend in BACKENDS:

        async def work(fleet: Fleet, _: list[Engine], backend: Backend = backend) -> None:
            result = await fleet.load_lora("ad", "/l/step_7/")
            assert result.model == ("ad" if backend == "dynamo" else "ad-step_7")

        with_fleet(backend, work)


# What each backend refuses with: Dynamo in a body of 200.
REFUSALS = [
    (backend, status, said)
    for backend in BACKENDS
    for status, said in [
        (400, "The lora adapter 'ad' conflicts with a served base model."),
        (404, "Loading lora ad failed: No adapter found for /l/2"),
        (500, "Call to add_lora method failed"),
    ]
]


def refusal(backend: str, status: int, said: str) -> Fault:
    if backend == "dynamo":
        body = b'{"status":"error","message":"%s"}' % said.encode()
        return Fault(kind="error_body", phase="request", path=LOAD[backend], body=body)
    return Fault(kind="status", path=LOAD[backend], status=status, message=said)


@pytest.mark.parametrize(("backend", "status", "said"), REFUSALS)
def test_a_refused_version_changes_nothing(backend: Any, status: int, said: str) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        await fleet.load_lora("ad", "/l/1", version=1)
        for engine in engines:
            engine.inject(*[refusal(backend, status, said) for _ in range(LIMITS.attempts)])
        with pytest.raises(AdminError, match="loading ad-2 failed on 2 of 2") as caught:
            await fleet.load_lora("ad", "/l/2", version=2)
        for engine, worker in zip(engines, caught.value.results, strict=True):
            assert (engine.admin.paused, held(engine)) == (None, {"ad-1": "/l/1"})
            assert (worker.updated, worker.phase) == (False, "update")
            assert worker.state != "paused"
            assert said in str(worker.error)
            engine.faults.clear()
        assert fleet.adapters == {"ad": "ad-1"}
        await fleet.load_lora("ad", "/l/2", version=2)
        assert held(engines[0]) == {"ad-2": "/l/2"}

    with_fleet(backend, work, count=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_refused_adapter_under_one_name_leaves_the_one_before(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        (engine,) = engines
        await fleet.load_lora("ad", "/l/1", versioned=False)
        engine.inject(refusal(backend, 400, "no such rank"))
        with pytest.raises(AdminError, match="/l/1 is loaded as ad again") as caught:
            await fleet.load_lora("ad", "/l/2", versioned=False)
        assert (engine.admin.paused, held(engine)) == (None, {"ad": "/l/1"})
        assert caught.value.results[0].updated is False

    with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_refused_unload_pauses_nothing(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        with pytest.raises(AdminError, match="unloading ad failed on 1 of 1") as caught:
            await fleet.unload_lora("ad")
        assert caught.value.results[0].updated is False
        assert engines[0].admin.paused is None
        assert not [name for name in routes(engines[0]) if "pause" in name]

    with_fleet(backend, work)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_success_that_did_nothing_is_an_error(backend: Any, *, versioned: bool) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        engines[0].inject(
            *[Fault(kind="error_body", phase="request", path=LOAD[backend], body=SUCCESS[backend]) for _ in range(3)]
        )
        with pytest.raises(AdminError, match="no such adapter") as caught:
            await fleet.load_lora("ad", "/l/1", versioned=versioned)
        assert caught.value.results[0].updated is False
        assert engines[0].admin.paused is None

    with_fleet(backend, work)


def test_the_body_counts_before_the_status() -> None:
    kept = {
        "dynamo": b'{"status":"success","message":"LoRA adapter \'ad\' already loaded","hot_swap":false}',
        "sglang": b'{"success":true,"error_message":null,"loaded_adapters":{"ad":"/l/old"}}',
    }
    for backend, body in kept.items():

        async def work(fleet: Fleet, engines: list[Engine], body: bytes = body, backend: str = backend) -> None:
            engines[0].admin.adapters["ad"] = "/l/old"
            answer = Fault(kind="error_body", phase="request", path=LOAD[backend], body=body)
            engines[0].inject(*[answer] * 3 * LIMITS.attempts)
            with pytest.raises(AdminError, match=r"already loaded|holds /l/old as ad, not /l/new"):
                await fleet.load_lora("ad", "/l/new", versioned=False)

        with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_that_refuses_keeps_the_old_version_until_all_have_the_new_one(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        one, two = engines
        await fleet.load_lora("ad", "/l/1", version=1)
        two.inject(*[refusal(backend, 400, "no") for _ in range(LIMITS.attempts)])
        with pytest.raises(AdminError, match="1 of 2"):
            await fleet.load_lora("ad", "/l/2", version=2, policy="resume_all")
        two.faults.clear()
        assert held(one) == {"ad-1": "/l/1", "ad-2": "/l/2"}
        assert held(two) == {"ad-1": "/l/1"}
        assert fleet.adapters == {"ad": "ad-1"}
        await fleet.load_lora("ad", "/l/3", version=3)
        assert held(one) == held(two) == {"ad-3": "/l/3"}

    with_fleet(backend, work, count=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_a_pause_the_old_version_goes_when_all_run_again(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        await fleet.load_lora("ad", "/l/1", version=1)
        async with fleet.paused():
            result = await fleet.load_lora("ad", "/l/2", version=2)
            assert set(held(engines[0])) == {"ad-1", "ad-2"}
            assert engines[0].admin.paused is not None
        assert result.model == "ad-2"
        assert set(held(engines[0])) == {"ad-2"}

    with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_old_version_that_stays_is_unloaded_later(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        (engine,) = engines
        unload = "/unload_lora" + ("" if backend == "dynamo" else "_adapter")
        await fleet.load_lora("ad", "/l/1", version=1)
        engine.inject(Fault(kind="status", path=unload, status=500))
        await fleet.load_lora("ad", "/l/2", version=2)
        assert set(held(engine)) == {"ad-1", "ad-2"}
        await fleet.load_lora("ad", "/l/3", version=3)
        assert set(held(engine)) == {"ad-3"}

    with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_is_no_checkpoint_and_a_checkpoint_no_adapter(backend: Any, tmp_path: Path) -> None:
    adapter, checkpoint = tmp_path / "adapter", tmp_path / "checkpoint"
    adapter.mkdir()
    checkpoint.mkdir()
    (adapter / "adapter_config.json").write_text("{}")

    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        with pytest.raises(
            ValueError, match=r"adapter_config.json: an adapter, not a checkpoint; load it with load_lora"
        ):
            await fleet.update_weights(adapter)
        with pytest.raises(ValueError, match=r"has no adapter_config.json: not an adapter"):
            await fleet.load_lora("ad", checkpoint)
        assert not [name for name in routes(engines[0]) if name != "liveness_probe"]
        await fleet.load_lora("ad", adapter, version=1)
        await fleet.load_lora("ad", checkpoint, version=2, check_files=False)
        assert held(engines[0]) == {"ad-2": str(checkpoint)}

    with_fleet(backend, work)


@pytest.mark.parametrize(
    ("backend", "route"),
    [("dynamo", "/update_weights_from_disk"), ("vllm", "/collective_rpc"), ("prime", "/update_weights"),
     ("sglang", "/update_weights_from_disk")],
)  # fmt: skip
def test_a_refusal_of_an_adapter_is_explained(backend: Any, route: str) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        said = "There is no module or parameter named 'base_model.model' in Qwen3ForCausalLM"
        engines[0].inject(*[Fault(kind="status", path=route, status=400, message=said)] * LIMITS.attempts)
        with pytest.raises(AdminError, match=r"/l/1 seems to be an adapter: load it with load_lora"):
            await fleet.update_weights("/l/1")

    with_fleet(backend, work)


@pytest.mark.parametrize("version", ["a/b", "a:b", "", "a b", "a@1"])
def test_a_version_that_no_server_takes_in_a_name_is_refused(version: str) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        with pytest.raises(ValueError, match="cannot be part of a model's name"):
            await fleet.load_lora("ad", "/l/1", version=version)
        assert not routes(engines[0])

    with_fleet("vllm", work)


@pytest.mark.parametrize("backend", ["dynamo", "vllm", "sglang"])
def test_a_name_in_use_is_known_from_the_refusal_where_nothing_is_listed(backend: Any) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        engines[0].admin.adapters["ad"] = "/l/old"
        listing = "/v1/loras" if backend == "dynamo" else "/v1/models"
        engines[0].inject(*[Fault(kind="status", path=listing, status=404)] * 10)
        result = await fleet.load_lora("ad", "/l/new", versioned=False)
        assert held(engines[0]) == {"ad": "/l/new"}
        assert (result.workers[0].updated, result.workers[0].verified) == (True, None)

    with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("versioned", [True, False])
def test_a_load_whose_answer_is_lost_is_tried_again(backend: Any, *, versioned: bool) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        engines[0].admin.adapters["ad"] = "/l/old"
        engines[0].inject(Fault(kind="reset", phase="sampled", path=LOAD[backend]))
        result = await fleet.load_lora("ad", "/l/new", versioned=versioned)
        assert held(engines[0])[str(result.model)] == "/l/new"
        assert engines[0].admin.paused is None

    with_fleet(backend, work)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("versioned", [True, False])
def test_a_load_that_is_never_answered_holds_only_a_name_that_is_asked_for(backend: Any, *, versioned: bool) -> None:
    async def work(fleet: Fleet, engines: list[Engine]) -> None:
        engines[0].inject(*[Fault(kind="reset", phase="request", path=LOAD[backend])] * LIMITS.attempts)
        with pytest.raises(AdminError) as caught:
            await fleet.load_lora("ad", "/l/new", versioned=versioned)
        assert caught.value.results[0].updated is (False if versioned else None)
        assert (engines[0].admin.paused is None) is versioned

    with_fleet(backend, work)
