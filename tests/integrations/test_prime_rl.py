"""prime-rl's protocol of administration and its teacher scores, over every server of the embedded engine."""

from __future__ import annotations

import asyncio
import doctest
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from control.checkpoints import write_checkpoint
from dynamo_tito import simulator
from dynamo_tito.integrations import prime_rl
from dynamo_tito.simulator import Backend, Engine, Fault
from dynamo_tito.weights import WeightPublisher

BACKENDS: list[Any] = ["vllm", "prime", "sglang", "dynamo"]


@dataclass
class ClientConfig:
    """The fields of prime-rl's client configuration that are read."""

    base_url: str
    admin_base_url: list[str] | None = None
    api_key_var: str = "NO_SUCH_KEY"
    headers: dict[str, str] = field(default_factory=dict)
    headers_from_env: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has the functions of ``prime_rl.utils.client``, to be replaced."""
    made = ModuleType("prime_rl.utils.client")
    for name in ("init_nccl_broadcast", "load_lora_adapter", "maybe_check_has_model", "prefill_logprobs",
                 "setup_admin_clients", "update_weights"):  # fmt: skip
        setattr(made, name, name)
    for package in ("prime_rl", "prime_rl.utils"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def _paused(engine: Engine) -> bool:
    return engine.admin.paused is not None


def address(engine: Engine, backend: Backend) -> str:
    return engine.system_url if backend == "dynamo" else engine.url


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_protocol_on_each_server(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        async with simulator.serve(backend=backend) as engine:
            api = prime_rl.TitoAdminAPI(backend, openai_url=engine.url)
            assert isinstance(api, prime_rl.AdminAPI)
            async with httpx.AsyncClient(base_url=address(engine, backend), headers={"x-team": "us"}) as client:
                await api.health(client)
                assert await api.list_models(client) == ["tito-model"]
                await api.pause(client)
                assert _paused(engine)
                await api.update_weights(client, tmp_path / "step_7", step=7)
                await api.resume(client)
                assert not _paused(engine)
                assert engine.admin.weights != "default"
                await api.load_lora_adapter(client, "policy", str(tmp_path / "lora"))
                assert list(engine.admin.adapters) == ["policy"]
                if backend in ("prime", "dynamo"):
                    await api.init_broadcaster(
                        client, host="trainer", port=29_500, rank_offset=3, inference_world_size=8, timeout=60
                    )
                    joined = engine.calls[-1].json()
                    assert (joined["rank_offset"], joined["inference_world_size"]) == (3, 8)
                    assert engine.admin.weight_group
                assert all(record.headers["x-team"] == "us" for record in engine.calls if record.listener != "rl")

    asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_reaches_every_server_or_says_which(backend: Backend, tmp_path: Path, module: ModuleType) -> None:
    write_checkpoint(tmp_path / "step_3")
    write_checkpoint(tmp_path / "step_4")

    async def main() -> None:
        async with simulator.serve(backend=backend) as one, simulator.serve(backend=backend) as two:
            engines = (one, two)
            clients = [httpx.AsyncClient(base_url=address(engine, backend)) for engine in engines]
            with prime_rl.install(backend=backend):
                await module.update_weights(clients, tmp_path / "step_3", step=3)
                assert (tmp_path / "step_3" / "NCCL_READY").exists()
                assert {engine.admin.paused for engine in engines} == {None}
                assert "default" not in {engine.admin.weights for engine in engines}
                assert {engine.admin.cache_flushes for engine in engines} <= {0, 1}  # prime-rl's own route flushes
                held = two.admin.weights
                two.inject(Fault(kind="status", status=400, path=_update_route(backend)))
                with pytest.raises(tito.AdminError) as raised:
                    await module.update_weights(clients, tmp_path / "step_4", step=4)
                assert [result.updated for result in raised.value.results] == [True, False]
                assert two.admin.weights == held
            for client in clients:
                await client.aclose()

    asyncio.run(main())


def _update_route(backend: Backend) -> str:
    return {
        "vllm": "/collective_rpc",
        "prime": "/update_weights",
        "sglang": "/update_weights_from_disk",
        "dynamo": "/engine/update_weights_from_disk",
    }[backend]


def test_dynamo_is_discovered(module: ModuleType, tmp_path: Path) -> None:
    async def main() -> None:
        async with simulator.serve() as one, simulator.serve(seed=1) as two:
            one.join(two)
            with prime_rl.install(backend="dynamo", rl_base_url=one.rl_url):
                clients = await asyncio.to_thread(module.setup_admin_clients, ClientConfig(one.url + "/v1"))
                assert {str(client.base_url).rstrip("/") for client in clients} == {one.system_url, two.system_url}
                await module.init_nccl_broadcast(clients, "trainer", 29_500, 60, 4)
                joined = {engine.calls[-1].json()["rank_offset"] for engine in (one, two)}
                assert joined == {0, 2}
                with pytest.raises(ValueError, match="5 ranks cannot be shared equally by 2"):
                    await module.init_nccl_broadcast(clients, "trainer", 29_500, 60, 5)
                write_checkpoint(tmp_path / "step_1")
                await module.update_weights(clients, tmp_path / "step_1", step=1)
                assert {engine.admin.version for engine in (one, two)} == {"step_1"}
            for client in clients:
                await client.aclose()

    asyncio.run(main())


def test_installing_is_undone(module: ModuleType) -> None:
    outer = prime_rl.install(backend="prime")
    inner = prime_rl.install(backend="vllm")
    with pytest.raises(RuntimeError, match="installed again"):
        outer.uninstall()
    inner.uninstall()
    outer.uninstall()
    outer.uninstall()
    assert module.update_weights == "update_weights"


def test_the_example_of_the_page(module: ModuleType) -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    (section,) = re.findall(r"^## prime-rl\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {"rl_url": "http://127.0.0.1:1"}
    examples = doctest.DocTestParser().get_doctest(block, names, "prime-rl", None, 0)
    assert doctest.DocTestRunner().run(examples, clear_globs=False).failed == 0
    assert module.update_weights is prime_rl.update_weights
    examples.globs["installed"].uninstall()


def test_a_missing_framework_is_named() -> None:
    with pytest.raises(ImportError, match=r"prime_rl.* cannot be imported .* install prime-rl from its repository"):
        prime_rl.install()


@pytest.mark.parametrize(
    ("backend", "transport"),
    [
        ("vllm", "vllm_generate"),
        ("prime", "vllm_generate"),
        ("dynamo", "vllm_generate"),
        ("dynamo", "dynamo_chat"),
        ("sglang", "sglang_generate"),
    ],
)
def test_teacher_numbers_are_those_of_the_tokens(backend: Backend, transport: Any) -> None:
    ids = [5, 900, 17, 17, 3, 31_000, 42]

    async def main() -> tuple[list[float], list[float]]:
        async with (
            simulator.serve(backend=backend) as engine,
            tito.AsyncTitoClient(engine.url, model="tito-model", transport=transport) as client,
        ):
            truth = engine.model.score(np.array(ids), version=engine.admin.weights).logprobs.tolist()
            return await prime_rl.prefill_logprobs(client, "tito-model", ids), truth

    values, truth = asyncio.run(main())
    assert len(values) == len(ids)
    assert values[0] == 0.0
    assert values[1:] == pytest.approx(truth[1:], abs=1e-6)


def test_their_broadcast_is_read_and_ours_by_them(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=2)
    theirs = write_checkpoint(tmp_path / "step_5")
    with pytest.raises(TimeoutError, match="no STABLE"):
        publisher.resolve(5)
    (theirs / "STABLE").touch()
    assert publisher.resolve(5) == theirs
    whole = (theirs / "b.safetensors").read_bytes()
    (theirs / "b.safetensors").write_bytes(whole[:-1])
    with pytest.raises(TimeoutError, match=r"STABLE is empty, and .*b\.safetensors has \d+ bytes"):
        publisher.resolve(5)
    (theirs / "b.safetensors").unlink()
    with pytest.raises(TimeoutError, match="1 of 2 shards of its index are missing"):
        publisher.resolve(5)
    (theirs / "NCCL_READY").touch()
    publisher.wait_nccl_ready(5, 0)
    with publisher.publish(6) as directory:
        (directory / "w.bin").write_bytes(b"x")
    publisher.mark_nccl_ready(7)
    # prime-rl looks for names only: the newest `step_<n>` with STABLE, and NCCL_READY in the step that it broadcasts.
    stable = sorted(int(path.name.split("_")[-1]) for path in tmp_path.glob("step_*") if (path / "STABLE").exists())
    assert stable[-1] == 6
    assert (tmp_path / "step_7" / "NCCL_READY").exists()
