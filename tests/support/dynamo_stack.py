"""Start and stop the real Dynamo frontend with stand-in engines behind it, on free ports of the loopback interface.

    with DynamoStack(Path(".dynamo")) as stack:
        stack.url, stack.rl_url, stack.workers[0].system_url

Standard library only. Everything is written below the directory; every process is stopped by its own handle.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

CHECKOUT = Path(__file__).resolve().parents[2]
WORKER = CHECKOUT / "tools" / "dynamo" / "worker.py"
ADAPTERS = CHECKOUT / "tools" / "dynamo" / "adapters.py"
ENGINE_MODEL = CHECKOUT / "python" / "dynamo_tito" / "simulator" / "model.py"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0


# Dynamo reads the port of the system server as a signed 16-bit number.
PORTS = range(18_000, 32_000)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    for port in random.sample(PORTS, k=100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among 100 of {PORTS.start} to {PORTS.stop - 1}")


@dataclass
class Worker:
    """One stand-in engine: its process, its control file and the record of what reached it."""

    process: subprocess.Popen[bytes]
    system_url: str
    control_path: Path
    record_path: Path

    def control(self, **values: Any) -> None:
        """Set the engine's behaviour (keys: CONTROL in worker.py); what is not named goes back to its default."""
        # Written beside and renamed: the engine never reads half a file.
        fresh = self.control_path.with_suffix(".new")
        fresh.write_text(json.dumps(values))
        fresh.rename(self.control_path)

    def events(self) -> list[dict[str, Any]]:
        """All that the engine has recorded, oldest first; a line that is still being written is left for later."""
        lines = self.record_path.read_text().splitlines(keepends=True) if self.record_path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the engine got from the frontend."""
        return [event["request"] for event in self.events() if event["event"] == "request"]

    def forget(self) -> None:
        """Start a new record."""
        os.truncate(self.record_path, 0)


@dataclass
class DynamoStack:
    """The frontend and its workers. `directory` holds what install.sh made; a run's own files go to its `run`."""

    directory: Path
    num_workers: int = 1
    model: str = "tito-model"
    url: str = ""
    rl_url: str = ""
    workers: list[Worker] = field(default_factory=list)
    _exit: ExitStack = field(default_factory=ExitStack, repr=False)

    @classmethod
    @contextmanager
    def adapters_only(cls, directory: Path) -> Iterator[str]:
        """A system server with the adapter handlers of Dynamo's own vLLM worker, without a frontend: its URL."""
        stack, port = cls(directory), free_port()
        url = f"http://127.0.0.1:{port}"
        stack._make_run()
        with stack._exit:
            process = stack._spawn(
                "adapters",
                [str(ADAPTERS)],
                stack._environment(DYN_SYSTEM_PORT=str(port), DYN_LORA_ENABLED="true", DYN_ENABLE_RL="true"),
            )
            _wait(lambda: bool(_get(f"{url}/v1/loras")), {"adapters": process}, stack._run)
            yield url

    def _make_run(self) -> None:
        self.directory = self.directory.resolve()
        self._run = self.directory / "run"
        shutil.rmtree(self._run, ignore_errors=True)
        for name in ("home", "kv", "tmp"):
            (self._run / name).mkdir(parents=True)

    def __enter__(self) -> Self:
        self._make_run()
        with ExitStack() as stack:
            self._exit = stack
            self._start_frontend()
            for number in range(self.num_workers):
                self.start_worker(number)
            self._wait_ready()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def version(self) -> str:
        """Of the installed ai-dynamo."""
        (found,) = self.directory.glob("venv/lib/python3*/site-packages/ai_dynamo-*.dist-info")
        return found.name.removeprefix("ai_dynamo-").removesuffix(".dist-info")

    def _environment(self, **more: str) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return keep | {
            "HOME": str(self._run / "home"),  # the frontend keeps its cache of model cards there
            "TMPDIR": str(self._run / "tmp"),
            "DYN_DISCOVERY_BACKEND": "file",  # no etcd
            "DYN_FILE_KV": str(self._run / "kv"),
            "DYN_REQUEST_PLANE": "tcp",  # no NATS
            "DYN_EVENT_PLANE": "zmq",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
            "DYN_EVENT_PLANE_HOST": "127.0.0.1",
            "DYN_SYSTEM_HOST": "127.0.0.1",
            "DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS": '["generate"]',
            "DYN_LOG": "info",
            "DYN_SDK_DISABLE_ANSI_LOGGING": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            **more,
        }

    def _spawn(self, name: str, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        log: IO[bytes] = self._exit.enter_context((self._run / f"{name}.log").open("wb"))
        python = str(self.directory / "venv" / "bin" / "python")
        process = subprocess.Popen(
            [python, *arguments], env=environment, cwd=self._run, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._exit.callback(_stop, process)
        return process

    def _start_frontend(self) -> None:
        port, rl_port = free_port(), free_port()
        self.url, self.rl_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{rl_port}"
        environment = self._environment(
            DYN_ENABLE_RL="true",
            DYN_RL_PORT=str(rl_port),
            DYN_VLLM_ENABLE_INFERENCE_V1_GENERATE="1",
            DYN_SGLANG_ENABLE_GENERATE="1",
        )
        arguments = ["-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port)]
        self._frontend = self._spawn("frontend", arguments, environment)

    def start_worker(self, number: int) -> Worker:
        """Start one more engine behind the frontend. It serves a moment later; `wait_workers` says when."""
        port = free_port()
        control, record = self._run / f"control{number}.json", self._run / f"requests{number}.jsonl"
        record.touch()
        process = self._spawn(
            f"worker{number}",
            [str(WORKER), "--model-dir", str(self.directory / "model"), "--model-name", self.model,
             "--engine-model", str(ENGINE_MODEL), "--control", str(control), "--record", str(record)],
            self._environment(DYN_SYSTEM_PORT=str(port)),
        )  # fmt: skip
        worker = Worker(process, f"http://127.0.0.1:{port}", control, record)
        self.workers.append(worker)
        return worker

    def _wait_ready(self) -> None:
        def ready() -> bool:
            listed = _get(f"{self.url}/v1/models")
            if not any(card["id"] == self.model for card in listed["data"]):
                return False
            members = _get(f"{self.rl_url}/v1/rl/workers")["workers"]
            return sum("system_url" in member for member in members) >= self.num_workers

        workers = {f"worker{number}": worker.process for number, worker in enumerate(self.workers)}
        _wait(ready, {"frontend": self._frontend, **workers}, self._run)


def _wait(ready: Callable[[], bool], processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Return when the servers answer; an error where one of them ends, or none answers in time."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} exited with {process.returncode}; see {logs / name}.log")
        try:
            if ready():
                return
        except OSError:
            pass  # not listening yet
        if time.monotonic() > deadline:
            raise TimeoutError(f"the Dynamo stack is not ready after {START_TIMEOUT:.0f} s; logs are in {logs}")
        time.sleep(0.1)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
