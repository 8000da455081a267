"""A stream on the calling thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from .deadline import deadline_after
from .generate import Generation
from .run_sync import Flight, Runner
from .steps import Emit
from .stream_state import StreamState

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._types import StreamDelta


class TitoStream(StreamState):
    """The new tokens of one completion, as they come: what :meth:`TitoClient.stream` returns.

    Iterate over it, best within ``with``, which sends the request, and closes the connection when it is left. The
    connection is read only when the next tokens are asked for.
    """

    def __init__(
        self, runner: Runner, generation: Generation, seconds: float | None, check: Callable[[], None]
    ) -> None:
        super().__init__(generation)
        self._runner = runner
        self._flight = Flight(None)
        self._seconds = seconds
        self._check = check

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamDelta:
        while not self._ended:
            delta = self._advance()
            if delta is not None:
                return delta
        raise StopIteration

    def close(self) -> None:
        """Leave the stream: its connection is closed, which tells the engine to stop."""
        self._leave()
        self._flight.close()

    def __enter__(self) -> Self:
        self._advance()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self) -> StreamDelta | None:
        """To the next tokens; None once it is open, and at its end."""
        if self._steps is None:
            self._check()
            self._flight.deadline = deadline_after(self._seconds)
            self._steps = self._generation.steps(self._flight.deadline)
        try:
            step = self._runner.advance(self._steps, self._flight)
        except BaseException as error:
            with contextlib.closing(self._steps):
                self._flight.close()
            if not self._interrupted(error):
                raise
            return None
        if isinstance(step, Emit):
            return step.delta
        self._end(step)
        self._flight.close()
        return None
