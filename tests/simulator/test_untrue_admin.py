"""Administration whose answer differs from the state, as the embedded engine plays it: the answer, and the state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Backend, Engine, EngineConfig, Fault

BACKENDS: tuple[Backend, ...] = ("dynamo", "vllm", "prime", "sglang")
#: How each backend loads an adapter from a place, takes weights from disk, and empties its cache.
LOADS: dict[Backend, tuple[str, Any]] = {
    "dynamo": ("/engine/load_lora", lambda path: {"lora_name": "a", "source": {"uri": path}}),
    "vllm": ("/v1/load_lora_adapter", lambda path: {"lora_name": "a", "lora_path": path, "load_inplace": True}),
    "prime": ("/load_lora_adapter", lambda path: {"lora_name": "a", "lora_path": path}),
    "sglang": ("/load_lora_adapter", lambda path: {"lora_name": "a", "lora_path": path}),
}
UPDATES: dict[Backend, tuple[str, dict[str, Any]]] = {
    "dynamo": ("/engine/update_weights_from_disk", {"model_path": "/w/2", "weight_version": "2"}),
    "vllm": ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "/w/2"}}),
    "prime": ("/update_weights", {"weight_dir": "/w/2"}),
    "sglang": ("/update_weights_from_disk", {"model_path": "/w/2", "weight_version": "2"}),
}
FLUSHES: dict[Backend, str] = {
    "dynamo": "/engine/flush_cache", "vllm": "/reset_prefix_cache", "prime": "/reset_prefix_cache", "sglang":
    "/flush_cache",
}  # fmt: skip


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[Backend, Engine]]:
    with ExitStack() as stack:
        yield {backend: stack.enter_context(simulator.running(backend=backend)) for backend in BACKENDS}


@pytest.fixture(params=BACKENDS)
def engine(request: pytest.FixtureRequest, engines: dict[Backend, Engine]) -> Engine:
    engine = engines[request.param]
    engine.restart()
    engine.admin.pause("keep")
    return engine


def post(engine: Engine, path: str, body: Any = None) -> httpx.Response:
    answer = httpx.post(engine.system_url + path, json=body, trust_env=False, verify=False, timeout=20.0)
    assert not engine.faults.pending()
    return answer


def test_a_success_that_changes_nothing(engine: Engine) -> None:
    backend = engine.config.backend
    path, body = UPDATES[backend]
    before = engine.admin.state()
    engine.inject(Fault(kind="did_nothing"))
    said = post(engine, path, body)
    assert engine.admin.state() == before
    # The same request, with effect, is answered alike.
    meant = post(engine, path, body)
    assert (said.status_code, said.json()) == (meant.status_code, meant.json())
    assert engine.admin.weights != before["weights"]


def test_an_adapter_that_was_not_loaded_again(engine: Engine) -> None:
    path, body = LOADS[engine.config.backend]
    engine.inject(Fault(kind="did_nothing"))
    assert post(engine, path, body("/l/1")).status_code == 200
    assert engine.admin.adapters == {}
    assert post(engine, path, body("/l/1")).status_code == 200
    assert engine.admin.adapters == {"a": "/l/1"}


def test_an_adapter_that_is_refused_and_then_loaded(engine: Engine) -> None:
    backend = engine.config.backend
    path, body = LOADS[backend]
    engine.inject(Fault(kind="refused_reload"))
    refused = post(engine, path, body("/l/1"))
    assert refused.status_code == {"dynamo": 200, "sglang": 400}.get(backend, 404)
    assert "No adapter found" in refused.text
    assert engine.admin.adapters == {}
    post(engine, path, body("/l/1"))
    assert engine.admin.adapters == {"a": "/l/1"}


def test_weights_that_were_taken_and_the_cache_that_was_not_emptied(engine: Engine) -> None:
    path, body = UPDATES[engine.config.backend]
    engine.inject(Fault(kind="updated_not_flushed", path=path))
    said = post(engine, path, body)
    if engine.config.backend != "sglang":
        assert (said.status_code, "cannot play updated_not_flushed" in said.text) == (500, True)
        return
    assert said.status_code == 400
    assert said.json()["success"] is False
    assert "Weights were updated, but the cache was not flushed" in said.json()["message"]
    # The label stays that of the weights before.
    assert (engine.admin.weights, engine.admin.version, engine.admin.cache_flushes) == ("2", "default", 0)


def test_a_cache_that_is_not_emptied_at_once(engine: Engine) -> None:
    backend = engine.config.backend
    engine.inject(Fault(kind="flush_refused"))
    said = post(engine, FLUSHES[backend])
    assert said.status_code == (400 if backend == "sglang" else 200)
    assert engine.admin.cache_flushes == 0
    again = post(engine, FLUSHES[backend])
    assert again.content != said.content
    assert engine.admin.cache_flushes == 1


def test_a_session_that_is_left_open(engines: dict[Backend, Engine]) -> None:
    engine = engines["vllm"]
    engine.restart()
    assert post(engine, "/start_weight_update").status_code == 200
    engine.inject(Fault(kind="session_left_open"))
    update: dict[str, Any] = {"update_info": {"names": []}}
    assert post(engine, "/update_weights", update).status_code == 500
    again = httpx.post(engine.url + "/start_weight_update", trust_env=False, verify=False)
    assert (again.status_code, "already active" in again.text) == (500, True)
    assert post(engine, "/finish_weight_update", {}).status_code == 200
    assert post(engine, "/start_weight_update").status_code == 200


def test_faults_at_a_rate_apply_to_administration_too() -> None:
    config = EngineConfig(backend="sglang", fault_rate=1.0, random_faults=(Fault(kind="flush_refused"),))
    with simulator.running(config) as engine:
        assert [post(engine, "/flush_cache").status_code for _ in range(2)] == [400, 400]
        body = {"input_ids": [1], "sampling_params": {"max_new_tokens": 1}}
        assert post(engine, "/generate", body).status_code == 200
