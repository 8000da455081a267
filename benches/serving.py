"""A server that costs next to nothing: prebuilt answers, nothing parsed but lengths. ``python -m benches.serving``.

The first segment of a request's path names the answer. It runs in a process of its own, so that only the client is
measured, and gives way to it where they share the cores, as a server on another machine does.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_BACKLOG = 4096
_NICENESS = 19


@contextmanager
def served(answers: Mapping[str, bytes], *, delay: float = 0.0, together: int = 1) -> Iterator[str]:
    """The base URL of a server of these bodies.

    It answers after ``delay`` seconds, if there is a delay, and each time that so many requests wait.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, body in answers.items():
            Path(folder, name).write_bytes(body)
        with running("benches.serving", delay, together, folder) as url:
            yield url


@contextmanager
def running(module: str, *arguments: object) -> Iterator[str]:
    """The base URL of a server in a process of its own: a module that prints its port."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def _answers(folder: Path) -> dict[bytes, tuple[bytes, bytes]]:
    bodies = {path.name.encode(): path.read_bytes() for path in folder.iterdir()}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return {name: (head % len(body), body) for name, body in bodies.items()}


def whole(received: bytes | bytearray) -> bool:
    """Whether a message of HTTP/1.1 is there to its end."""
    end = received.find(b"\r\n\r\n")
    head = received[: max(end, 0)].lower()
    at = head.find(b"content-length:")
    length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
    return 0 <= end <= len(received) - 4 - length


def _name(request: bytearray) -> bytes:
    return bytes(request[: request.find(b"\r\n")].split(b" ", 2)[1].split(b"/", 2)[1])


def _converse(connection: socket.socket, answers: Mapping[bytes, tuple[bytes, bytes]]) -> None:
    """Answers of megabytes: a thread per connection, which hands the kernel the bytes as they are."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = bytearray()
    with connection:
        while data := connection.recv(1 << 20):
            received += data
            if not whole(received):
                continue
            head, body = answers[_name(received)]
            received.clear()
            try:
                connection.sendall(head)
                connection.sendall(body)
            except ConnectionError:
                return


class _Late(asyncio.Protocol):
    """Small answers, late: thousands of connections on one loop."""

    def __init__(self, answers: Mapping[bytes, tuple[bytes, bytes]], delay: float, waiting: _Waiting) -> None:
        self._answers, self._delay, self._received, self._waiting = answers, delay, bytearray(), waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not whole(self._received):
            return
        head, body = self._answers[_name(self._received)]
        self._received.clear()
        for transport, answer in self._waiting.joined(self._transport, head + body):
            asyncio.get_running_loop().call_later(self._delay, transport.write, answer)


class _Waiting:
    """Requests that wait for others."""

    def __init__(self, together: int) -> None:
        self._together = together
        self._held: list[tuple[asyncio.Transport, bytes]] = []

    def joined(self, transport: asyncio.Transport, answer: bytes) -> list[tuple[asyncio.Transport, bytes]]:
        """One more; those that wait no longer."""
        self._held.append((transport, answer))
        if len(self._held) < self._together:
            return []
        held, self._held = self._held, []
        return held


def every_descriptor() -> int:
    """Let this process open as many files as it may, and say how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _main(delay: float, together: int, folder: Path) -> None:
    os.nice(_NICENESS)
    every_descriptor()
    answers = _answers(folder)
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    print(listener.getsockname()[1], flush=True)
    if delay:
        asyncio.run(_serve_late(listener, answers, delay, _Waiting(together)))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_converse, args=(connection, answers), daemon=True).start()


async def _serve_late(
    listener: socket.socket, answers: Mapping[bytes, tuple[bytes, bytes]], delay: float, waiting: _Waiting
) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Late(answers, delay, waiting), sock=listener, backlog=_BACKLOG
    )
    await server.serve_forever()


if __name__ == "__main__":
    threading.stack_size(256 << 10)
    _main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
