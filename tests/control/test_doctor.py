"""The doctor tells the servers apart, and finds what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Diagnosis, detect_backend, examine
from dynamo_tito.simulator import Engine

GUISES: dict[str, dict[str, Any]] = {
    "vLLM 0.31": {"backend": "vllm", "vllm_version": "0.31"},
    "vLLM >= 0.32": {"backend": "vllm"},
    "prime-rl's server": {"backend": "prime"},
    "Dynamo 1.6.1": {"backend": "dynamo"},
    "Dynamo with prompt-start support": {"backend": "dynamo", "prompt_start": "trim"},
    "SGLang": {"backend": "sglang"},
}


def ask(engine: Engine, **options: Any) -> Diagnosis:
    return asyncio.run(examine(engine.url, rl_base_url=engine.rl_url, trust_env=False, **options))


def said(found: Diagnosis, topic: str) -> str:
    return "; ".join(f"{each.verdict}: {each.found}" for each in found.findings if each.topic == topic)


@pytest.mark.parametrize("name", GUISES)
def test_the_guises_are_told_apart(name: str) -> None:
    with simulator.running(**GUISES[name]) as engine:
        before = engine.admin.version
        found = ask(engine)
        assert found.name == name
        assert found.backend == engine.config.backend == asyncio.run(detect_backend(engine.url, trust_env=False))
        assert found.model == "tito-model"
        assert [each for each in found.findings if each.verdict == "change"] == []
        assert said(found, "context length") == "ok: 262,144 tokens"
        # Safe on a live server: one token at most, nothing changed.
        assert engine.requests
        assert all(len(sample.token_ids) == 1 for record in engine.requests for sample in record.samples)
        assert (engine.admin.version, engine.admin.paused, engine.admin.cache_flushes) == (before, None, 0)


@pytest.mark.parametrize(
    ("prompt_start", "says"), [("refuse", "note: refuses"), ("ignore", "note: ignores"), ("trim", "ok: honours")]
)
def test_the_prompt_start_of_dynamo(prompt_start: Any, says: str) -> None:
    with simulator.running(prompt_start=prompt_start) as engine:
        found = ask(engine)
        assert says in said(found, "dynamo_chat")
        assert says in said(found, "dynamo_completions")
        assert "ok: honours" in said(found, "vllm_generate")
        assert f"{engine.instance_id}: 12 routes" in said(found, "administration")


@pytest.mark.parametrize("name", GUISES)
def test_missing_and_empty_routed_experts_are_found(name: str) -> None:
    with simulator.running(**GUISES[name], routed_experts=False) as engine:
        findings = [each for each in ask(engine).findings if each.found == "no routed experts"]
        assert findings
        assert all("--enable-return-routed-experts" in (each.advice or "") for each in findings)
    with simulator.running(**GUISES[name], num_experts=1, top_k=1) as engine:
        assert any("all routed experts are zero" in each.found for each in ask(engine).findings)


def test_discovery_that_is_off_is_found() -> None:
    with simulator.running() as engine:
        found = asyncio.run(examine(engine.url, rl_base_url=engine.url, trust_env=False))
        assert "does not exist" in said(found, "discovery")
        assert any("DYN_ENABLE_RL" in (each.advice or "") for each in found.findings)


def test_a_model_that_is_not_there_is_found() -> None:
    with simulator.running(backend="vllm") as engine:
        found = ask(engine, model="other")
        assert said(found, "model") == "change: /v1/models lists tito-model"
        assert "does not answer" in said(found, "vllm_generate")


def test_nobody_there() -> None:
    with simulator.running() as engine:
        url = engine.url
    with pytest.raises(tito.TransportError):
        asyncio.run(examine(url, trust_env=False))
    with simulator.running() as engine, pytest.raises(tito.ServerError, match="name the backend"):
        asyncio.run(examine(engine.rl_url, trust_env=False))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[1:] = {[*arguments]!r}; from dynamo_tito.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


def test_the_command_doctor() -> None:
    with simulator.running() as engine:
        done = command("doctor", engine.url, "--rl-url", engine.rl_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{engine.url}: Dynamo 1.6.1, model tito-model\n")
        document = json.loads(command("doctor", engine.url, "--rl-url", engine.rl_url, "--json").stdout)
        assert document["name"] == "Dynamo 1.6.1"
        wrong = command("doctor", engine.url, "--rl-url", engine.url)
        assert wrong.returncode == 1
        assert "DYN_ENABLE_RL" in wrong.stdout
    gone = command("doctor", engine.url)
    assert (gone.returncode, gone.stdout) == (2, "")


def test_the_command_workers() -> None:
    with simulator.running() as engine, simulator.running(seed=1, world_size=4) as other:
        engine.join(other)
        engine.admin.name_version("step_3")
        done = command("workers", engine.url, "--rl-url", engine.rl_url)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["worker", "model", "ranks", "routes", "version", "health"]
        assert len(lines) == 3
        line = next(line for line in lines if str(engine.instance_id) in line)
        assert line.split() == [f"dynamo.backend.rl/{engine.instance_id}", "tito-model", "1", "12", "step_3", "ok"]
        other.stopped = True
        broken = command("workers", engine.url, "--rl-url", engine.rl_url, "--json")
        assert broken.returncode == 1
        rows = [json.loads(line) for line in broken.stdout.splitlines()]
        assert sorted(row["health"] == "ok" for row in rows) == [False, True]
        nowhere = command("workers", engine.url, "--rl-url", engine.url)
        assert nowhere.returncode == 2
        assert engine.url + "/v1/rl/workers" in nowhere.stderr
        assert "DYN_ENABLE_RL" in nowhere.stderr
