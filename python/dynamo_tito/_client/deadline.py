"""Time limits: seconds that were given, the deadline that follows, and the error when it passes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

from dynamo_tito._errors import TransportError, raise_without_cycle

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from types import TracebackType

    from dynamo_tito._http.base import Exchange


def checked_seconds(name: str, value: float | None) -> float | None:
    """Seconds, or None for no limit; ValueError unless positive."""
    if value is None or value == math.inf:
        return None
    if not value > 0:
        raise ValueError(f"{name} must be a positive number of seconds, or None")
    return float(value)


def deadline_after(seconds: float | None) -> float | None:
    """The end of these seconds on the monotonic clock."""
    return None if seconds is None else time.monotonic() + seconds


def deadline_error(exchange: Exchange | None) -> TransportError:
    """The error of a call whose deadline passed during this exchange, or before it had one."""
    phase = "connect" if exchange is None else exchange.phase
    doing = {
        "connect": "waiting for a connection",
        "send": "sending the request",
        "headers": "waiting for the answer",
        "body": "reading the answer",
    }[phase]
    return TransportError(f"the deadline passed while {doing}", phase=phase)


class CurrentExchange:
    """The exchange that a call is at; its phase goes into :func:`deadline_error`."""

    __slots__ = ("exchange",)

    def __init__(self) -> None:
        self.exchange: Exchange | None = None


class time_limit:  # noqa: N801 - reads as the statement it is used in
    """``asyncio.timeout`` that raises :func:`deadline_error`."""

    __slots__ = ("_current", "_seconds", "_timeout")

    def __init__(self, seconds: float | None, current: CurrentExchange) -> None:
        self._timeout = None if seconds is None else asyncio.timeout(seconds)
        self._seconds = seconds
        self._current = current

    async def __aenter__(self) -> None:
        if self._seconds is not None and self._seconds <= 0:
            raise deadline_error(self._current.exchange)
        if self._timeout is not None:
            await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timeout is None:
            return
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise_without_cycle(deadline_error(self._current.exchange))


@contextlib.contextmanager
def acquired(lock: threading.Lock | threading.Semaphore, deadline: float | None) -> Iterator[None]:
    """``with lock``, waiting for it until the deadline only."""
    if not (lock.acquire() if deadline is None else lock.acquire(timeout=max(deadline - time.monotonic(), 0.0))):
        raise deadline_error(None)
    try:
        yield
    finally:
        lock.release()
