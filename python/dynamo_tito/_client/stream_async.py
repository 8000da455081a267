"""A stream on an event loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .deadline import deadline_after, time_limit
from .generate import Generation
from .run_async import AsyncRunner, Flight
from .steps import Emit
from .stream_state import StreamState

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._types import StreamDelta


class AsyncTitoStream(StreamState):
    """The new tokens of one completion, as they come: what :meth:`AsyncTitoClient.stream` returns.

    Iterate over it, best within ``async with``, which sends the request, and closes the connection when it is left. The
    connection is read only when the next tokens are asked for.
    """

    def __init__(
        self, runner: AsyncRunner, generation: Generation, seconds: float | None, check: Callable[[], None]
    ) -> None:
        super().__init__(generation)
        self._runner = runner
        self._flight = Flight()
        self._seconds = seconds
        self._check = check

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamDelta:
        while not self._ended:
            delta = await self._advance()
            if delta is not None:
                return delta
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Leave the stream: its connection is closed, which tells the engine to stop."""
        self._leave()
        await self._flight.aclose()

    async def __aenter__(self) -> Self:
        await self._advance()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _advance(self) -> StreamDelta | None:
        """To the next tokens; None once it is open, and at its end."""
        if self._steps is None:
            self._check()
            self._ends = deadline_after(self._seconds)
            self._steps = self._generation.steps(self._ends)
        try:
            async with time_limit(None if self._ends is None else self._ends - time.monotonic(), self._flight):
                step = await self._runner.advance(self._steps, self._flight)
        except BaseException as error:
            with contextlib.closing(self._steps):
                await self._flight.aclose()
            if not self._interrupted(error):
                raise
            return None
        if isinstance(step, Emit):
            return step.delta
        self._end(step)
        await self._flight.aclose()
        return None
