"""Start and stop real vLLM servers on free ports of the loopback interface.

    with VllmServer(Path(".vllm"), "dense_a") as server:
        server.url

`directory` is what tools/vllm/install.sh made; logs go to its `run`. A server ends with its block, and by itself when
its life is over. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from .dynamo_stack import free_port

SERVE = Path(__file__).resolve().parents[2] / "tools" / "vllm" / "serve.sh"
MODEL = "toy"
MAX_MODEL_LEN = 512
START_TIMEOUT = 240.0
STOP_TIMEOUT = 20.0
LIFE = 1_800


@dataclass
class VllmServer:
    """One server. Without a `with` block: `start()`, `wait_ready()`, `stop()`; several then start side by side.

    Attributes:
        directory: what install.sh made.
        model: a name of the table in tools/vllm/models.py.
        arguments: further arguments of vLLM's command line.
        routed: whether routed experts are returned; see serve.sh for what that rules out.
        name: of the log file.
    """

    directory: Path
    model: str
    arguments: tuple[str, ...] = ()
    routed: bool = False
    name: str = ""
    url: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.directory / "run" / f"{self.name or self.model}.log"

    def checkpoint(self, name: str) -> str:
        """The absolute path of another checkpoint or adapter of the table."""
        return str((self.directory / "models" / name).resolve())

    def start(self) -> None:
        """Start the process; it serves some 20 seconds later."""
        self.directory = self.directory.resolve()
        self.log.parent.mkdir(exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        home = self.log.parent / "home"  # vLLM and Triton write caches there
        environment = keep | {"HOME": str(home), "ROUTED": str(int(self.routed)), "LIFE": str(LIFE)}
        with self.log.open("wb") as log:
            # It gives way to the tests, which must see a stream before it is whole.
            self._process = subprocess.Popen(
                ["nice", "-n", "5", str(SERVE), str(self.directory), str(port), self.model, *self.arguments],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Return when the server answers; raises if it ends before that."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"vLLM exited with {self._process.returncode}; see {self.log}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                pass  # not listening yet
            if time.monotonic() > deadline:
                raise TimeoutError(f"vLLM is not ready after {START_TIMEOUT:.0f} s; see {self.log}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server and the processes of its engine."""
        if self._process is None:
            return
        process, self._process = self._process, None
        # The engine runs in a child that keeps the memory; the group has them all.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                continue
        process.wait()
