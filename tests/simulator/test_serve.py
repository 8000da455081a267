"""`dynamo-tito serve` as a process, and the fixture that ships with the package."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.cli._app import app
from support.events import documents

COMMAND = [sys.executable, "-c", "from dynamo_tito.cli import main; main()", "serve"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(stop: signal.Signals) -> None:
    options = ["--backend", "vllm", "--vllm-version", "0.32", "--fault", "prompt_count", "--json"]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            assert (addresses["backend"], addresses["model"]) == ("vllm", "tito-model")
            body = {"token_ids": [1], "sampling_params": {"max_tokens": 2}}
            answer = httpx.post(f"{addresses['url']}/inference/v1/generate", json=body, trust_env=False, verify=False)
            assert len(answer.json()["choices"][0]["token_ids"]) == 2
            version = httpx.get(f"{addresses['url']}/version", trust_env=False, verify=False).json()
            assert version == {"version": "0.32.0"}
            process.send_signal(stop)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_it_prints_its_address() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = dict(process.stdout.readline().split() for _ in range(5))
            assert list(lines) == ["backend", "model", "url", "rl_url", "system_url"]
            assert httpx.get(f"{lines['rl_url']}/v1/rl/workers", trust_env=False, verify=False).status_code == 200
        finally:
            process.terminate()
            process.wait(20)


def test_it_plays_faults_from_options() -> None:
    options = ["--backend", "vllm", "--json", "--fault", "status", "--fault", "not_ready", "--fault-rate", "1"]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = {"token_ids": [1], "sampling_params": {"max_tokens": 2}}
            answers = {
                httpx.post(f"{url}/inference/v1/generate", json=body, trust_env=False, verify=False).status_code
                for _ in range(20)
            }
            assert answers == {500, 503}
        finally:
            process.terminate()
            process.wait(20)


def test_it_streams_as_it_is_told() -> None:
    options = ["--json", "--sglang-generate", "--chunk-tokens", "3", "--fault", "drop", "--fault-rate", "1"]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = {"input_ids": [1], "sampling_params": {"max_new_tokens": 7}, "stream": True}
            answer = httpx.post(f"{url}/generate", json=body, trust_env=False, verify=False).content
            # The second of the chunks with 3, 3 and 1 tokens is dropped.
            assert [len(event["output_ids"]) for event in documents(answer)[:-1]] == [3, 1]
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize(
    "wrong",
    [["--backend", "tgi"], ["--fault-rate", "0.5"], ["--fault", "nope"], ["--top-k", "200"], ["--port", "70000"]],
)
def test_wrong_options_are_named(wrong: list[str]) -> None:
    result = CliRunner().invoke(app, ["serve", *wrong])
    assert result.exit_code == 2
    assert wrong[0].removeprefix("--").replace("-", "_")[:4] in result.output.replace("-", "_")


def test_a_taken_port_is_an_error() -> None:
    options = ["--backend", "vllm", "--vllm-version", "0.32", "--fault", "prompt_count", "--json"]
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["url"].rpartition(":")[2]
            result = CliRunner().invoke(app, ["serve", "--port", port])
            assert result.exit_code == 2
            assert "cannot listen" in result.output
        finally:
            process.terminate()
            process.wait(20)


def test_the_fixture_starts_engines_and_stops_them(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(
        "import httpx\n"
        "seen = []\n"
        "def test_one(tito_engine):\n"
        "    first, second = tito_engine(backend='vllm'), tito_engine(backend='sglang', seed=3)\n"
        "    for engine in (first, second):\n"
        "        assert httpx.get(engine.url + '/health', trust_env=False, verify=False).status_code == 200\n"
        "    seen.extend((first, second))\n"
        "def test_two():\n"
        "    assert [engine.stopped for engine in seen] == [True, True]\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_user.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert "2 passed" in result.stdout, result.stdout


def test_running_works_inside_a_coroutine() -> None:
    async def main() -> int:
        with simulator.running(backend="vllm") as engine:
            async with tito.AsyncTitoClient(engine.url, model="tito-model") as client:
                return len((await client.generate([300, 301], sampling_params={"max_tokens": 3})).token_ids)

    assert asyncio.run(main()) == 3
