"""Which requests are sent again, when, and how often. The driver does the waiting.

Sampling is not idempotent. A request is sent again only if it certainly reached no engine: no connection was made, or
the answer says so (:func:`dynamo_tito._client.server_errors.was_not_started`).
"""

from __future__ import annotations

import email.utils
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from dynamo_tito._errors import ServerError, TitoError, TransportError
from dynamo_tito._log import logger

from .steps import Sleep, Steps

if TYPE_CHECKING:
    from dynamo_tito._config import RetryPolicy
    from dynamo_tito._http.base import HttpResponse
    from dynamo_tito._native import CallRecord

    from .steps import Send

T = TypeVar("T")


class RetryWaits:
    """The waits of one call, within the policy's budget and the call's deadline.

    Attributes:
        server_asks: seconds of the last ``Retry-After``.
    """

    __slots__ = ("_deadline", "_policy", "_rng", "_waited", "server_asks")

    def __init__(
        self, policy: RetryPolicy, *, deadline: float | None, rng: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._rng = rng
        self._waited = 0.0
        self.server_asks: float | None = None

    def next_wait(self, attempt: int) -> float:
        """Seconds before the attempt after ``attempt``, which counts from 1."""
        policy = self._policy
        bound = min(policy.maximum, policy.initial * 2.0 ** min(attempt - 1, 32))
        wait = bound * self._rng()
        if self.server_asks is not None:
            wait = max(wait, min(self.server_asks, policy.retry_after))
        return wait

    def allows(self, wait: float) -> bool:
        """Whether a wait fits into the budget and ends before the deadline."""
        if self._waited + wait > self._policy.budget:
            return False
        return self._deadline is None or time.monotonic() + wait < self._deadline

    def wait_after(self, attempt: int, error: TitoError) -> float | None:
        """Seconds before the next attempt, which are taken from the budget; None if there is none."""
        if attempt >= self._policy.attempts or not is_retryable(error):
            return None
        wait = self.next_wait(attempt)
        if not self.allows(wait):
            return None
        self._waited += wait
        return wait


def is_retryable(error: BaseException) -> bool:
    """Whether the request certainly did not reach an engine."""
    if isinstance(error, TransportError):
        return error.phase == "connect"
    return isinstance(error, ServerError) and error.retryable


def retried(
    waits: RetryWaits, send: Send, judged: Callable[[HttpResponse], T], record: CallRecord | None = None
) -> Steps[T]:
    """What ``judged`` makes of the answer, or its error; sent again as the policy says. The last error is raised."""
    for number in itertools.count(1):
        try:
            try:
                response: HttpResponse = yield send
            except BaseException as error:
                if record is not None and _was_sent(error):
                    record.unanswered(len(send.request.content))
                raise
            if record is not None:
                size = len(response.content)
                record.answered(response.status, len(send.request.content), size, not send.stream)
            return judged(response)
        except TitoError as error:
            wait = waits.wait_after(number, error)
            if wait is None:
                raise
            logger.info("sending again in %.2f s (attempt %d): %s", wait, number + 1, error)
            cause = str(error.status) if isinstance(error, ServerError) else type(error).__name__
        yield Sleep(wait)
        if record is not None:
            record.retried(cause)
    raise AssertionError  # count() has no end


def _was_sent(error: BaseException) -> bool:
    """Whether the request may have left: there was a connection."""
    return not (isinstance(error, TransportError) and error.phase == "connect")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, as a number or as a date; None if it is absent or cannot be read."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError, OSError):
            return None  # the errors of parsedate_to_datetime and of timestamp for malformed dates
    return max(seconds, 0.0) if math.isfinite(seconds) else None
