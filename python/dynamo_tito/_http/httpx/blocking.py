"""Blocking connections that keep the call's deadline; a socket's timeout starts anew with every read."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import httpcore

from .watch import TracksSurplusBytes

if TYPE_CHECKING:
    import ssl

    from dynamo_tito._config import Limits

_WRITE_STEP = 1 << 16

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("dynamo_tito_deadline", default=None)


@contextlib.contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """Operations of this thread end at the deadline, which is on the monotonic clock."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining(timeout: float | None, expired: type[httpcore.TimeoutException]) -> float | None:
    """The seconds that one operation may take: its own timeout, at most what the call has left."""
    ends = _deadline.get()
    if ends is None:
        return timeout
    left = ends - time.monotonic()
    if left <= 0:
        raise expired("the deadline is over")
    return left if timeout is None else min(timeout, left)


class BlockingBackend(httpcore.NetworkBackend):
    """httpcore's blocking sockets, each operation within the deadline."""

    def __init__(self, limits: Limits) -> None:
        self._backend = httpcore.SyncBackend()
        self._limits = limits

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """See httpcore."""
        left = remaining(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, left, local_address, socket_options)
        return BlockingStream(stream, self._limits)

    def sleep(self, seconds: float) -> None:
        """See httpcore."""
        self._backend.sleep(seconds)


class BlockingStream(TracksSurplusBytes, httpcore.NetworkStream):
    """One connection."""

    def __init__(self, stream: httpcore.NetworkStream, limits: Limits) -> None:
        super().__init__(limits)
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        self.will_read()
        data = self._stream.read(max_bytes, remaining(timeout, httpcore.ReadTimeout))
        self.saw_read(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        self.saw_write()
        for start in range(0, len(buffer), _WRITE_STEP):
            step = buffer[start : start + _WRITE_STEP]
            self._stream.write(step, remaining(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """See httpcore."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """See httpcore."""
        left = remaining(timeout, httpcore.ConnectTimeout)
        return BlockingStream(self._stream.start_tls(ssl_context, server_hostname, left), self._limits)

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        if info == "is_readable":
            return self.must_not_reuse(self._stream.get_extra_info("socket"))
        return self._stream.get_extra_info(info)
