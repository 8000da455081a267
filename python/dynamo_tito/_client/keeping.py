"""Sees the steps of a call pass, and keeps an answer that they cannot read."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_tito._errors import TitoError
from dynamo_tito._http.base import HttpResponse

from .steps import Pull, Send, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamo_tito._http.base import HttpRequest
    from dynamo_tito._native import Body

    from .refused import Keeper, Readable
    from .steps import Steps

T = TypeVar("T")


class _Answer:
    """The answer that is being read, as far as it is needed if it is refused."""

    __slots__ = ("_chunks", "_content", "_keeper", "_reading", "_request", "_size")

    def __init__(self, keeper: Keeper, reading: Callable[[], Readable]) -> None:
        self._keeper = keeper
        self._reading = reading
        self._request: HttpRequest | None = None
        self._content: Body | bytes = b""
        self._chunks: list[bytes] = []
        self._size = 0

    def sent(self, request: HttpRequest, answer: object) -> None:
        """A request was sent, and answered unless ``answer`` is None."""
        self.forget()
        self._request = request
        self._content = answer.content if isinstance(answer, HttpResponse) else b""

    def arrived(self, chunk: bytes | bytearray) -> None:
        """A chunk of a stream came. No more of a stream is held than may be kept."""
        if self._size > self._keeper.max_bytes:
            return
        self._size += len(chunk)
        self._chunks.append(bytes(chunk))

    def refused(self, error: TitoError) -> Steps[None]:
        """Keep the answer, which could not be read."""
        keeper, request = self._keeper, self._request
        if request is None:
            return
        content = b"".join(self._chunks) or self._content
        facts = keeper.facts(request, self._reading(), error)
        del error
        yield Work(len(content), functools.partial(keeper.keep, facts, content))

    def forget(self) -> None:
        """Let go of the answer."""
        self._request, self._content, self._size = None, b"", 0
        self._chunks.clear()


def keeping(inner: Steps[T], keeper: Keeper, reading: Callable[[], Readable]) -> Steps[T]:
    """The same steps; an answer that they cannot read is kept.

    Args:
        inner: the steps of a call.
        keeper: keeps it.
        reading: how the answer is decoded, asked for where decoding failed.
    """
    kept = _Answer(keeper, reading)
    answer: Any = None
    failure: TitoError | None = None
    try:
        while True:
            try:
                step = inner.send(answer) if failure is None else inner.throw(failure)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                answer = failure = None
            try:
                answer = yield step
            except TitoError as error:
                failure = error
            if isinstance(step, Send):
                kept.sent(step.request, answer)
            elif isinstance(step, Pull) and answer is not None:
                kept.arrived(answer)
            elif isinstance(step, Work) and failure is not None:
                yield from kept.refused(failure)
    finally:
        inner.close()
        kept.forget()
