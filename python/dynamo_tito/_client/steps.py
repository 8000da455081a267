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
    from dynamo_tito._native import Body

T = TypeVar("T")
Steps = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class Send:
    """Send once. The result is the :class:`HttpResponse`, whatever its status.

    Attributes:
        request: what is sent.
        into_body: whether a good answer goes into a :class:`Body`.
        timeout: seconds for this step, within the call's deadline.
        expected: bytes that the answer will probably have; 0 is unknown.
    """

    request: HttpRequest
    into_body: bool
    timeout: float | None = None
    expected: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Decode. The result is that of ``reading``."""

    content: Body | bytes = field(repr=False)
    reading: Callable[[Body | bytes], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Run these steps under the client's lock."""

    steps: Callable[[], Steps[None]]
