"""Sending again: what may be, when, and how often. No clock is waited on here; the driver does that.

Sampling is not idempotent. Only what certainly did not reach an engine is sent again: a connection that never came
about, and an answer that says so itself (:func:`dynamo_tito._client.server_errors.was_not_started`).
"""

from __future__ import annotations

import email.utils
import logging
import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_always

from dynamo_tito._errors import ServerError, TitoError, TransportError

if TYPE_CHECKING:
    from dynamo_tito._config import RetryPolicy

T = TypeVar("T")
Steps = Generator[Any, Any, T]

logger = logging.getLogger("dynamo_tito")

_OVER = object()
"""There is no next attempt."""


class Patience:
    """The waits of one call: what the server asked for last, what has been waited, what is left of the deadline."""

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
        """Whether a wait fits what is left: beginning one that cannot end well only delays the error."""
        if self._waited + wait > self._policy.budget:
            return False
        return self._deadline is None or time.monotonic() + wait < self._deadline

    def spend(self, wait: float) -> None:
        """Count a wait that is about to begin."""
        self._waited += wait


def is_retryable(error: BaseException) -> bool:
    """Whether what failed certainly did not reach an engine."""
    if isinstance(error, TransportError):
        return error.phase == "connect"
    return isinstance(error, ServerError) and error.retryable


def retried(
    policy: RetryPolicy, patience: Patience, attempt: Callable[[], Steps[T]], sleep: Callable[[float], object]
) -> Steps[T]:
    """The steps of ``attempt``, again as often as the policy has it. The last error surfaces as it is.

    Args:
        policy: how often.
        patience: how long in between.
        attempt: makes the steps of one try.
        sleep: the step that waits; called with the seconds.
    """
    if policy.attempts == 1:
        return (yield from attempt())
    retrying = Retrying(
        wait=lambda state: patience.next_wait(state.attempt_number),
        stop=lambda state: state.attempt_number >= policy.attempts or not patience.allows(state.upcoming_sleep),
        retry=retry_always,
        retry_error_callback=lambda _state: _OVER,
    )
    retrying.begin()
    state = RetryCallState(retrying, fn=None, args=(), kwargs={})
    while True:
        # begin() and iter() are how tenacity's own loops run; between them it is we who act.
        retrying.iter(state)
        try:
            result = yield from attempt()
        except TitoError as error:
            if not is_retryable(error):
                raise
            state.set_result(None)  # not the error: its frames hold the state, and each would keep the other alive
            verdict = retrying.iter(state)
            retrying.iter_state.reset()  # it holds methods of what holds it
            if verdict is _OVER:
                raise
            wait = state.upcoming_sleep
            logger.info("sending again in %.2f s (attempt %d): %s", wait, state.attempt_number + 1, error)
            patience.spend(wait)
            state.prepare_for_next_attempt()
        else:
            return result
        yield sleep(wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks for, as a number or as a date; None where it does not, or not intelligibly."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError, OSError):
            return None  # what a server can write there, it makes of it
    return max(seconds, 0.0) if math.isfinite(seconds) else None
