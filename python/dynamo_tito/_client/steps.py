"""The steps of a call, which a driver carries out.

A call is a generator. It yields a step and is sent the step's result, or has the step's error raised at the ``yield``.
Only the drivers wait, use threads or touch a connection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dynamo_tito._http.base import HttpRequest
    from dynamo_tito._types import StreamDelta

T = TypeVar("T")
Steps = Generator[Any, Any, T]


@dataclass(slots=True)
class Send:
    """Send once. The result is the :class:`HttpResponse`, whatever its status.

    Attributes:
        request: what is sent.
        into_body: whether a good answer goes into a :class:`Body`.
        timeout: seconds for this step, within the call's deadline.
        expected: bytes that the answer will probably have; 0 is unknown.
        stream: whether a good answer's body is left to :class:`Pull`.
        begins: called when a connection is about to be taken.
    """

    request: HttpRequest
    into_body: bool = False
    timeout: float | None = None
    expected: int = 0
    stream: bool = False
    begins: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Pull:
    """The next chunk of the stream. The result is None at its end, and where it does not come in time.

    Attributes:
        within: seconds; None for as long as the call may take.
    """

    within: float | None = None


@dataclass(slots=True)
class Work:
    """Compute. The result is that of ``run``.

    Attributes:
        size: bytes that are looked at; from ``thread_from_bytes`` on an event loop is left free.
        run: what is computed.
    """

    size: int
    run: Callable[[], Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand something to the caller, who asks for the rest later: new tokens, or None once the stream is open."""

    delta: StreamDelta | None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Run these steps under the client's lock."""

    steps: Callable[[], Steps[None]]
