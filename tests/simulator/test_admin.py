"""Administration of the embedded engine: its answers, and the state after them."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine

VLLM = {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 8}}
SGLANG = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 8}}


def generate(engine: Engine, **headers: str) -> httpx.Response:
    sglang = engine.config.backend == "sglang"
    url = engine.url + ("/generate" if sglang else "/inference/v1/generate")
    body = SGLANG | {"rid": headers.get("x-request-id")} if sglang else VLLM
    return httpx.post(url, json=body, headers=headers, timeout=30.0, trust_env=False, verify=False)


class Background:
    """One request that is on its way while the test goes on."""

    def __init__(self, engine: Engine, **headers: str) -> None:
        self.response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._run, args=(engine, headers), daemon=True)
        self._thread.start()

    def _run(self, engine: Engine, headers: dict[str, str]) -> None:
        self.response = generate(engine, **headers)

    def result(self) -> httpx.Response:
        self._thread.join(20)
        assert self.response is not None
        return self.response


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def post(url: str, **arguments: Any) -> httpx.Response:
    return httpx.post(url, trust_env=False, verify=False, timeout=20.0, **arguments)


PAUSES: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamo": ("/engine/pause_generation", {"json": {"mode": "keep"}}, "/engine/resume_generation"),
    "vllm": ("/pause", {"params": {"mode": "keep", "clear_cache": "false"}}, "/resume"),
    "prime": ("/pause", {"params": {"mode": "keep", "clear_cache": "false"}}, "/resume"),
    "sglang": ("/pause_generation", {"json": {"mode": "in_place"}}, "/continue_generation"),
}


@pytest.mark.parametrize("backend", PAUSES)
def test_a_paused_engine_holds_requests_until_it_resumes(backend: Any) -> None:
    path, arguments, resume = PAUSES[backend]
    with simulator.running(backend=backend) as engine:
        assert post(engine.system_url + path, **arguments).status_code == 200
        waiting = Background(engine)
        wait_for(lambda: len(engine.requests) == 1)
        assert engine.last.samples == []
        assert waiting.response is None
        assert post(engine.system_url + resume).status_code == 200
        assert waiting.result().status_code == 200
        assert len(engine.last.samples) == 1


@pytest.mark.parametrize("mode", ["abort", "wait"])
def test_vllm_0_33_refuses_while_it_is_paused_in_these_modes(mode: str) -> None:
    with simulator.running(backend="vllm") as engine:
        assert post(engine.url + "/pause", params={"mode": mode}).json() == {"status": "paused"}
        assert httpx.get(engine.url + "/is_paused", trust_env=False, verify=False).json() == {"is_paused": True}
        refused = generate(engine)
        assert refused.status_code == 503
        assert refused.json()["error"] == {
            "message": "Generation is paused. Please retry after it resumes.",
            "type": "ServiceUnavailableError",
            "param": None,
            "code": 503,
        }
        post(engine.url + "/resume")
        assert generate(engine).status_code == 200
        assert post(engine.url + "/pause", params={"mode": "sideways"}).status_code == 400


@pytest.mark.parametrize("mode", ["abort", "wait", "keep"])
@pytest.mark.parametrize("version", ["0.31", "0.32"])
def test_vllm_before_0_33_holds_requests_in_every_mode(version: Any, mode: str) -> None:
    with simulator.running(backend="vllm", vllm_version=version) as engine:
        post(engine.url + "/pause", params={"mode": mode})
        waiting = Background(engine)
        wait_for(lambda: len(engine.requests) == 1)
        post(engine.url + "/resume")
        assert waiting.result().status_code == 200


# What must be aborted would sample for longer than the test lasts.
@pytest.mark.parametrize(("mode", "finish", "latency"), [("abort", "abort", 60.0), ("wait", "length", 0.5)])
def test_pausing_ends_or_waits_for_what_is_in_flight(mode: str, finish: str, latency: float) -> None:
    with simulator.running(backend="vllm", latency=latency) as engine:
        running = Background(engine)
        wait_for(lambda: engine.admin.in_flight == 1)
        post(engine.url + "/pause", params={"mode": mode})
        # Pausing has an answer only when nothing is being sampled any more.
        assert engine.admin.in_flight == 0
        choice = running.result().json()["choices"][0]
    assert choice["finish_reason"] == finish
    tokens = len(choice["token_ids"])
    assert tokens < 8 if mode == "abort" else tokens == 8


@pytest.mark.parametrize(
    ("backend", "path", "body"),
    [
        ("vllm", "/abort_requests", {"request_ids": ["generate-tokens-mine"]}),
        ("vllm", "/abort_requests", {}),
        ("sglang", "/abort_request", {"rid": "mi"}),
        ("sglang", "/abort_request", {"abort_all": True}),
        ("dynamo", "/engine/abort_request", {"request_id": "mine"}),
    ],
)
def test_abort_one_or_all(backend: Any, path: str, body: dict[str, Any]) -> None:
    with simulator.running(backend=backend, latency=60.0) as engine:
        running = Background(engine, **{"x-request-id": "mine"})
        wait_for(lambda: engine.admin.in_flight == 1)
        assert post(engine.system_url + path, json=body).status_code == 200
        answer = running.result()
        if backend == "dynamo":
            assert answer.status_code == 499
        else:
            assert "abort" in answer.text
        assert engine.last.samples[0].finish_reason == "abort"


def test_other_requests_continue() -> None:
    with simulator.running(backend="vllm", latency=0.3) as engine:
        running = Background(engine, **{"x-request-id": "mine"})
        wait_for(lambda: engine.admin.in_flight == 1)
        answer = post(engine.url + "/abort_requests", json={"request_ids": ["other"]}).json()
        # The names in the request are counted, not the requests that bear them.
        assert answer == {"status": "aborted", "aborted": 1}
        assert running.result().json()["choices"][0]["finish_reason"] == "length"


UPDATES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "dynamo": [
        ("/engine/pause_generation", {}),
        ("/engine/update_weights_from_disk", {"model_path": "/w/7", "weight_version": "7"}),
        ("/engine/resume_generation", {}),
    ],
    "vllm": [
        ("/start_weight_update", {}),
        ("/update_weights", {"update_info": {"names": [], "dtype_names": [], "shapes": []}}),
        ("/finish_weight_update", {"weight_version": "7"}),
    ],
    "prime": [("/update_weights", {"weight_dir": "/w/7"})],
    "sglang": [("/update_weights_from_disk", {"model_path": "/w/7", "weight_version": "7"})],
}


@pytest.mark.parametrize("backend", UPDATES)
def test_new_weights_sample_something_else(backend: Any) -> None:
    with simulator.running(backend=backend) as engine:
        generate(engine)
        for path, body in UPDATES[backend]:
            assert post(engine.system_url + path, json=body).status_code == 200
        generate(engine)
        before, after = (record.samples[0] for record in engine.requests)
        assert not np.array_equal(before.token_ids, after.token_ids)
        assert engine.admin.version == ("default" if backend == "prime" else "7")
        assert engine.admin.cache_flushes == (0 if backend == "vllm" else 1)


def test_the_version_comes_back_on_each_backend() -> None:
    with simulator.running(backend="vllm") as engine:
        assert post(engine.url + "/update_weight_version", json={"new_version": "9"}).json()["success"] is True
        assert httpx.get(engine.url + "/weight_info", trust_env=False, verify=False).json() == {"weight_version": "9"}
        choice = generate(engine).json()["choices"][0]
        assert choice["weight_versions"] == [{"version": "9", "start": 0, "end": 8}]
    with simulator.running(backend="sglang") as engine:
        post(engine.url + "/update_weight_version", json={"new_version": "9"})
        assert httpx.get(engine.url + "/model_info", trust_env=False, verify=False).json()["weight_version"] == "9"
        assert generate(engine).json()["meta_info"]["weight_version"] == "9"


def test_vllm_refuses_weights_out_of_order() -> None:
    with simulator.running(backend="vllm") as engine:
        update: dict[str, Any] = {"update_info": {"names": []}}
        assert post(engine.url + "/update_weights", json=update).status_code == 500
        assert post(engine.url + "/finish_weight_update", json={}).status_code == 500
        assert post(engine.url + "/start_weight_update").status_code == 200
        assert "already active" in post(engine.url + "/start_weight_update").json()["error"]["message"]
        assert post(engine.url + "/update_weights", json={}).status_code == 400
        assert post(engine.url + "/update_weights", json=update).status_code == 200
        assert post(engine.url + "/finish_weight_update", json={}).status_code == 200


@pytest.mark.parametrize("version", ["0.31", "0.32", "0.33"])
def test_the_connection_ends_after_an_exception_that_nothing_handles(version: Any) -> None:
    with (
        simulator.running(backend="vllm", vllm_version=version) as engine,
        httpx.Client(base_url=engine.url, trust_env=False, verify=False) as client,
    ):
        answer = client.post("/collective_rpc", json={"method": "no_such_method"})
        assert answer.status_code == 500
        assert "connection" not in answer.headers
        with socket.create_connection((answer.request.url.host, answer.request.url.port or 0)) as connection:
            body = b'{"method":"no_such_method"}'
            head = b"POST /collective_rpc HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert received.startswith(b"HTTP/1.1 500")
        assert b"connection: close" not in received


def test_the_cache_of_a_busy_engine_is_not_reset() -> None:
    with simulator.running(backend="vllm", latency=60.0) as engine:
        running = Background(engine)
        wait_for(lambda: engine.admin.in_flight == 1)
        busy = post(engine.url + "/reset_prefix_cache")
        assert (busy.status_code, busy.json()) == (200, {"success": False})
        assert post(engine.url + "/abort_requests", json={}).json() == {"status": "aborted", "aborted": 1}
        running.result()
        assert post(engine.url + "/reset_prefix_cache").json() == {"success": True}


@pytest.mark.parametrize("backend", ["vllm", "prime"])
def test_adapters_are_models(backend: Any) -> None:
    with simulator.running(backend=backend) as engine:
        adapter = {"lora_name": "a", "lora_path": "/l/a"}
        assert post(engine.url + "/v1/load_lora_adapter", json=adapter).text.startswith("Success")
        assert post(engine.url + "/v1/load_lora_adapter", json=adapter).status_code == 400
        names = [
            card["id"] for card in httpx.get(engine.url + "/v1/models", trust_env=False, verify=False).json()["data"]
        ]
        assert names == ["tito-model", "a"]
        assert post(engine.url + "/inference/v1/generate", json=VLLM | {"model": "a"}).status_code == 200
        assert post(engine.url + "/v1/unload_lora_adapter", json={"lora_name": "a"}).status_code == 200
        assert post(engine.url + "/inference/v1/generate", json=VLLM | {"model": "a"}).status_code == 404
        assert post(engine.url + "/v1/unload_lora_adapter", json={"lora_name": "a"}).status_code == 404


def test_adapters_on_dynamo_say_success() -> None:
    with simulator.running() as engine:
        body = {"lora_name": "a", "source": {"uri": "file:///l/a"}}
        assert post(engine.system_url + "/engine/load_lora", json=body).json()["status"] == "success"
        assert engine.admin.adapters == {"a": "file:///l/a"}
        assert post(engine.system_url + "/engine/unload_lora", json={"lora_name": "b"}).json()["status"] == "error"
        assert post(engine.system_url + "/engine/load_lora", json={}).json()["status"] == "error"


def test_discovery_lists_running_and_stopped_members() -> None:
    with simulator.running(seed=1) as first, simulator.running(seed=2, world_size=4) as second:
        first.join(second)
        workers = httpx.get(first.rl_url + "/v1/rl/workers", trust_env=False, verify=False).json()["workers"]
        assert [worker["system_url"] for worker in workers] == [first.system_url, second.system_url]
        assert [worker["world_size"] for worker in workers] == [1, 4]
        assert workers[0]["instance_id"] != workers[1]["instance_id"]
        assert all(worker["instance_id"] > 2**53 for worker in workers)
        second.stopped = True
        dead = httpx.get(first.rl_url + "/v1/rl/workers", trust_env=False, verify=False).json()["workers"][1]
        assert (dead["routes"], "system_url" in dead) == ([], False)
        assert dead["error"].startswith("Unavailable")


@pytest.mark.parametrize("backend", ["vllm", "prime"])
def test_the_tokenizer_routes(backend: Any) -> None:
    with simulator.running(backend=backend, max_model_len=99) as engine:
        answer = post(engine.url + "/tokenize", json={"prompt": "hi", "return_token_strs": True}).json()
        assert answer == {"count": 2, "max_model_len": 99, "tokens": [104, 105], "token_strs": ["h", "i"]}
        messages = {"messages": [{"role": "user", "content": "hi"}]}
        chat = post(engine.url + "/tokenize", json=messages).json()
        assert chat["token_strs"] is None
        text = post(engine.url + "/detokenize", json={"tokens": chat["tokens"]}).json()
        assert text == {"prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"}


def test_context_length_is_reported_and_kept() -> None:
    for backend, field in (("dynamo", "context_window"), ("vllm", "max_model_len"), ("sglang", "max_model_len")):
        with simulator.running(backend=backend, max_model_len=5) as engine:
            card = httpx.get(engine.url + "/v1/models", trust_env=False, verify=False).json()["data"][0]
            assert card[field] == 5
            # Three tokens of prompt leave room for two.
            generate(engine)
            assert len(engine.last.samples[0].token_ids) == 2
        with simulator.running(backend=backend, max_model_len=3) as engine:
            assert generate(engine).status_code == 400
