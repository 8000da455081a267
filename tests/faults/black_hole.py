"""Addresses that refuse connections, and addresses that drop packets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A port that is bound, and on which no socket listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """A port whose queue is full: further connections are never answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(64):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.5)
            try:
                waiting.connect(address)
            except TimeoutError:
                break
        else:
            raise AssertionError("the queue is never full")
        yield f"http://127.0.0.1:{address[1]}"
