"""`dynamo-tito top` shows what the embedded engines are, and what was counted of the calls to them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console
from typer.testing import CliRunner

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.cli._app import app
from dynamo_tito.simulator import Backend, Engine, Fault

pytest.importorskip("prometheus_client", reason="needs the extra dynamo-tito[cli]")

import prometheus_client

from dynamo_tito.cli._overview import Look, Overview
from dynamo_tito.cli._top import frame

PROMPT = list(range(100, 120))
TRANSPORTS: dict[Backend, tito.RendererTransport] = {
    "dynamo": "dynamo_chat",
    "vllm": "vllm_generate",
    "sglang": "sglang_generate",
}


def looked(engine: Engine, *metrics: str) -> Look:
    async def look() -> Look:
        rl_url = engine.rl_url if engine.config.backend == "dynamo" else None
        async with Overview(engine.url, rl_url=rl_url, metrics=metrics, seconds=30.0) as overview:
            return await overview.look()

    return asyncio.run(look())


def called(engine: Engine, count: int = 1, **arguments: object) -> None:
    with tito.TitoClient(
        engine.url, model="tito-model", transport=TRANSPORTS[engine.config.backend], trust_env=False
    ) as client:
        for _ in range(count):
            client.generate(PROMPT, sampling_params={"max_tokens": 24}, **arguments)  # type: ignore[arg-type]


def text_of(before: Look, now: Look) -> str:

    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(frame(before, now))
    return console.export_text()


@pytest.mark.parametrize("backend", list(TRANSPORTS))
def test_a_worker_is_seen_as_it_is(backend: Backend) -> None:
    with simulator.running(backend=backend) as engine:
        called(engine, 3)
        (worker,) = looked(engine).workers
        assert (worker.problem, worker.model, worker.running, worker.waiting) == (None, "tito-model", 0, 0)
        assert worker.tokens == engine.total_tokens == 3 * 24
        engine.admin.load("step_7")
        (worker,) = looked(engine).workers
        assert worker.version == "step_7"


def test_a_pause_is_seen() -> None:
    with simulator.running(backend="vllm") as engine:
        assert [worker.paused for worker in looked(engine).workers] == [False]
        engine.admin.pause("keep")
        assert [worker.paused for worker in looked(engine).workers] == [True]


def test_a_request_in_flight_is_seen() -> None:
    with simulator.running(backend="vllm") as engine:
        engine.pace.hold()
        thread = threading.Thread(target=called, args=(engine,), kwargs={"stream": True})
        thread.start()
        while engine.admin.in_flight == 0:
            thread.join(0.001)
            assert thread.is_alive()
        try:
            assert [worker.running for worker in looked(engine).workers] == [1]
        finally:
            engine.pace.release()
            thread.join()


def test_every_worker_of_a_fleet_is_listed_a_broken_one_too() -> None:
    with (
        simulator.running(backend="dynamo", seed=1) as one,
        simulator.running(backend="dynamo", seed=2) as two,
        simulator.running(backend="dynamo", seed=3) as three,
    ):
        one.join(two, three)
        two.admin.load("step_2")
        three.stopped = True
        try:
            before = looked(one)
            called(two, 2)
            now = looked(one)
        finally:
            three.stopped = False
    assert sorted(worker.version or "" for worker in now.workers) == ["", "", "step_2"]
    assert sum(worker.problem is not None for worker in now.workers) == 1
    shown = text_of(before, now)
    assert "3 workers   1 with a problem" in shown
    assert "step_2 (1), unknown (1)" in shown
    assert "Unavailable: TCP connection" in shown
    rate = 2 * 24 / (now.at - before.at)
    assert f"{rate:.2f} tokens/s" in shown or f"{rate:,.0f} tokens/s" in shown


@pytest.fixture
def page() -> Iterator[str]:
    """This process's counters, exported."""
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus")

    reader = exporter.PrometheusMetricReader()
    provider = metrics.MeterProvider(metric_readers=[reader])
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1")
    with tito.instrument(meter_provider=provider):
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    provider.shutdown()
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_calls_of_a_process(page: str) -> None:
    with simulator.running(backend="vllm") as engine:
        before = looked(engine, page)
        called(engine, 3)
        engine.inject(Fault(kind="wrong_rows", by=1), Fault(kind="wrong_rows", by=-1), Fault(kind="positive_logprobs"))
        for _ in range(3):
            with contextlib.suppress(tito.DecodeError):
                called(engine)
        now = looked(engine, page)
    assert now.calls is not None
    assert (now.calls.calls, now.calls.failed, now.calls.active, now.calls.tokens) == (6, 3, 0, 3 * 24)
    assert now.calls.refusals == {("rows", "vllm_generate"): 2, ("positive_logprob", "vllm_generate"): 1}
    assert now.calls.sums["received"] == sum(record.sent for record in engine.requests)
    lines = [line.split() for line in text_of(before, now).splitlines()]
    assert ["rows", "vllm_generate", "2"] in lines
    assert ["positive_logprob", "vllm_generate", "1"] in lines


def test_one_frame() -> None:
    with simulator.running(backend="vllm") as engine:
        done = CliRunner().invoke(app, ["top", engine.url, "--once", "--interval", "0.1"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("1 workers   0 with a problem   0 paused   versions default (1)")


def test_nobody_answers() -> None:
    done = CliRunner().invoke(app, ["top", "http://127.0.0.1:9", "--once"])
    assert done.exit_code == 2
    assert "127.0.0.1:9" in done.output


def test_it_shows_frames_until_it_is_stopped() -> None:
    with simulator.running(backend="vllm") as engine:
        command = [sys.executable, "-m", "dynamo_tito", "top", engine.url, "--interval", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                pages = 0
                while pages < 3:
                    pages = sum(record.path == "/metrics" for record in engine.calls)
                    assert process.poll() is None
                process.send_signal(signal.SIGINT)
                shown, _ = process.communicate(timeout=60)
                assert process.returncode == 0
                assert "1 workers" in shown
            finally:
                process.kill()


def test_a_server_steers_no_terminal() -> None:
    with simulator.running(backend="vllm") as engine:
        engine.admin.load("evil\x1b[2J")
        look = looked(engine)
    assert "\x1b" not in text_of(look, look)


def test_without_the_extra_it_is_named() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; sys.argv = ['x', 'top', 'http://x']\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "from dynamo_tito.cli import main; main()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "top needs prometheus_client: install the extra with  pip install 'dynamo-tito[cli]'\n"
