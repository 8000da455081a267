"""Carries out the steps of calls on the calling thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dynamo_tito._errors import TitoError, TransportError
from dynamo_tito._http.base import Exchange, HttpEngine, HttpResponse, StreamingHttpEngine, begun

from .deadline import CurrentExchange, acquired, deadline_after, deadline_error
from .steps import Emit, Exclusive, Pull, Send, Sleep, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

T = TypeVar("T")

Arriving: TypeAlias = Generator[HttpResponse | bytes | bytearray, None, None]
"""The answer, without its body if it is a good one, then the body's chunks."""


class Flight(CurrentExchange):
    """One call under way: its exchange, its deadline, and the body that is still arriving."""

    __slots__ = ("_arriving", "deadline")

    def __init__(self, deadline: float | None) -> None:
        super().__init__()
        self.deadline = deadline
        self._arriving: Arriving | None = None

    def open(self, arriving: Arriving) -> object:
        """The answer."""
        self._arriving = arriving
        answer = self._in_time(lambda: next(arriving))
        if isinstance(answer, HttpResponse) and not answer.good:
            self.close()
        return answer

    def pull(self, within: float | None) -> object:
        """The next chunk; None at the end, and after ``within`` seconds."""
        arriving, exchange = self._arriving, self.exchange
        assert arriving is not None  # noqa: S101 - only an open stream is pulled
        assert exchange is not None  # noqa: S101
        if within is None:
            return self._in_time(lambda: next(arriving, None))
        exchange.deadline = _earlier(self.deadline, deadline_after(within))
        try:
            return next(arriving, None)
        except TransportError:
            return None

    def close(self) -> None:
        """Close the connection, unless the body was read to its end."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.close()

    def _in_time(self, advance: Callable[[], T]) -> T:
        try:
            if self.deadline is None or time.monotonic() < self.deadline:
                return advance()
        except TransportError:
            if self.deadline is None or time.monotonic() < self.deadline:
                raise
        raise deadline_error(self.exchange)


class Runner:
    """The connections of one client, and its turns."""

    def __init__(self, transport: HttpEngine, *, concurrency: int) -> None:
        self.transport = transport
        self._slots = threading.Semaphore(concurrency)
        self._turns = threading.Lock()

    def run(self, steps: Steps[T], deadline: float | None) -> T:
        """Carry out a whole call, until the deadline at most."""
        flight = Flight(deadline)
        with contextlib.closing(flight), contextlib.closing(steps):
            result: T = self.advance(steps, flight)
            return result

    def advance(self, steps: Steps[Any], flight: Flight) -> Any:
        """Carry out steps, to the result of the call or to the next :class:`Emit`."""
        answer: Any = None
        failure: TitoError | None = None
        while True:
            try:
                step = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as stop:
                return stop.value
            finally:
                answer = failure = None
            if isinstance(step, Emit):
                return step
            try:
                answer = self._perform(step, flight)
            except TitoError as error:
                failure = error  # raised in the steps

    def _perform(self, step: object, flight: Flight) -> object:
        match step:
            case Pull():
                return flight.pull(step.within)
            case Work():
                return step.run()
            case Send(stream=True):
                flight.exchange = exchange = Exchange(step.request, deadline=flight.deadline)
                return flight.open(self._arriving(exchange, step.begins))
            case Send():
                return self._send(step, flight.deadline)
            case Sleep():
                time.sleep(step.seconds)
            case Exclusive():
                with acquired(self._turns, flight.deadline), contextlib.closing(step.steps()) as steps:
                    return self.advance(steps, flight)
            case _:
                raise TypeError(f"no step: {step!r}")
        return None

    def _send(self, step: Send, deadline: float | None) -> object:
        deadline = _earlier(deadline_after(step.timeout), deadline)
        exchange = Exchange(step.request, step.into_body, deadline, expected=step.expected)
        with acquired(self._slots, deadline):
            try:
                with exchange:
                    return self.transport.send(exchange)
            except TransportError:
                if deadline is None or time.monotonic() < deadline:
                    raise
        raise deadline_error(exchange)

    def _arriving(self, exchange: Exchange, begins: Callable[[], None] | None) -> Arriving:
        # It does not hold the flight: a stream that is dropped is closed at once, not when it is collected.
        assert isinstance(self.transport, StreamingHttpEngine)  # noqa: S101 - as the caller knows
        with acquired(self._slots, exchange.deadline):
            if begins is not None:
                begins()
            with exchange, contextlib.closing(self.transport.stream(exchange)) as chunks:
                receiver = begun(exchange, next(chunks, None))
                if receiver.good:
                    yield receiver.head
                for chunk in chunks:
                    if not receiver.good:
                        if not receiver.feed(chunk):
                            break
                    elif chunk:
                        yield receiver.passed(chunk)
                response = receiver.finish()
            if not receiver.good:
                yield response


def _earlier(*ends: float | None) -> float | None:
    return min((end for end in ends if end is not None), default=None)
