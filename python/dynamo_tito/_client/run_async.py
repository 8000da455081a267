"""Carries out the steps of calls on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dynamo_tito._errors import TitoError
from dynamo_tito._http.base import AsyncHttpEngine, AsyncStreamingHttpEngine, Exchange, HttpResponse, begun
from dynamo_tito._http.loops import without_closed

from .deadline import CurrentExchange, time_limit
from .steps import Emit, Exclusive, Pull, Send, Sleep, Work
from .threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

T = TypeVar("T")

Arriving: TypeAlias = AsyncGenerator[HttpResponse | bytes | bytearray, None]
"""The answer, without its body if it is a good one, then the body's chunks."""


class Flight(CurrentExchange):
    """One call under way: its exchange, and the body that is still arriving."""

    __slots__ = ("_arriving",)

    def __init__(self) -> None:
        super().__init__()
        self._arriving: Arriving | None = None

    async def open(self, arriving: Arriving) -> object:
        """The answer."""
        self._arriving = arriving
        answer = await anext(arriving)
        if isinstance(answer, HttpResponse) and not answer.good:
            await self.aclose()
        return answer

    async def pull(self, within: float | None) -> object:
        """The next chunk; None at the end, and after ``within`` seconds."""
        assert self._arriving is not None  # noqa: S101 - only an open stream is pulled
        if within is None:
            return await anext(self._arriving, None)
        try:
            async with asyncio.timeout(within):
                return await anext(self._arriving, None)
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            await arriving.aclose()


class _Turns:
    """Whose turn it is among the calls of one client on one event loop."""

    __slots__ = ("exclusive", "slots")

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.exclusive = asyncio.Lock()


class AsyncRunner:
    """The connections of one client, and the turns of its calls on each event loop."""

    def __init__(self, transport: AsyncHttpEngine, *, concurrency: int, thread_from_bytes: int) -> None:
        self.transport = transport
        self._any_loop = getattr(transport, "any_loop", False)
        self._concurrency = concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = weakref.WeakKeyDictionary()
        self._thread_from_bytes = thread_from_bytes

    def check_loop(self) -> None:
        """RuntimeError on a second event loop, unless the engine serves any number of them."""
        if self._any_loop:
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._loop is None:
                self._loop = loop
        if self._loop is not loop:
            raise RuntimeError("the client is in use on another event loop; make one per loop, or use http='native'")

    async def run(self, steps: Steps[T], seconds: float | None) -> T:
        """Carry out a whole call, in at most so many seconds."""
        flight = Flight()
        try:
            async with time_limit(seconds, flight):
                result: T = await self.advance(steps, flight)
                return result
        finally:
            try:
                steps.close()
            finally:
                await flight.aclose()

    async def advance(self, steps: Steps[Any], flight: Flight) -> Any:
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
                answer = await self._perform(step, flight)
            except TitoError as error:
                failure = error  # raised in the steps

    async def _perform(self, step: object, flight: Flight) -> object:
        match step:
            case Work():
                return await in_thread(step.run) if step.size >= self._thread_from_bytes else step.run()
            case Send(stream=False):
                async with time_limit(step.timeout, flight), self._here.slots:
                    flight.exchange = exchange = Exchange(step.request, step.into_body, expected=step.expected)
                    with exchange:
                        return await self.transport.asend(exchange)
            case Send():
                flight.exchange = exchange = Exchange(step.request)
                return await flight.open(self._arriving(exchange, step.begins))
            case Pull():
                return await flight.pull(step.within)
            case Sleep():
                await asyncio.sleep(step.seconds)
            case Exclusive():
                async with self._here.exclusive:
                    with contextlib.closing(step.steps()) as steps:
                        return await self.advance(steps, flight)
            case _:
                raise TypeError(f"no step: {step!r}")
        return None

    @property
    def _here(self) -> _Turns:
        loop = asyncio.get_running_loop()
        turns = self._turns.get(loop)
        if turns is None:
            without_closed(self._turns)
            turns = self._turns[loop] = _Turns(self._concurrency)
        return turns

    async def _arriving(self, exchange: Exchange, begins: Callable[[], None] | None) -> Arriving:
        # It does not hold the flight: a stream that is dropped is closed at once, not when it is collected.
        assert isinstance(self.transport, AsyncStreamingHttpEngine)  # noqa: S101 - as the caller knows
        async with self._here.slots:
            if begins is not None:
                begins()
            with exchange:
                async with contextlib.aclosing(self.transport.astream(exchange)) as chunks:
                    receiver = begun(exchange, await anext(chunks, None))
                    if receiver.good:
                        yield receiver.head
                    async for chunk in chunks:
                        if not receiver.good:
                            if not receiver.feed(chunk):
                                break
                        elif chunk:
                            yield receiver.passed(chunk)
                    response = receiver.finish()
            if not receiver.good:
                yield response
