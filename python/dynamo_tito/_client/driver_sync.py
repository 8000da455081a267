"""The client on the calling thread."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

from dynamo_tito._errors import TitoError, TransportError
from dynamo_tito._http import open_sync
from dynamo_tito._http.base import Exchange, Wiring

from . import score, text
from .base import BaseClient
from .deadline import acquired, deadline_after, deadline_error
from .generate import generate
from .options import GENERATE, SCORE, SCORE_CONCURRENCY, SCORE_MANY, TOKENIZE
from .steps import Exclusive, Read, Send, Sleep

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._config import HttpLibrary
    from dynamo_tito._requests import PromptIds
    from dynamo_tito._types import Completion, PromptLogprobs

    from .options import GenerateOptions, Progress, ScoreManyOptions, ScoreOptions, TokenizeOptions
    from .steps import Steps

T = TypeVar("T")


class TitoClient(BaseClient):
    """Token ids in, arrays out, on the calling thread. Threads may share it.

    The arguments are those of :class:`AsyncTitoClient`; ``http`` is ``"httpx"`` or ``"native"``, and ``http_client`` an
    ``httpx.Client`` or a :class:`dynamo_tito.HttpEngine`. The methods are the same but for ``fleet``, which is
    asynchronous.
    """

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        self._transport = open_sync(http, client, wiring)
        self._slots = threading.Semaphore(self._concurrency)
        self._turns = threading.Lock()

    @GENERATE.shown_by
    def generate(self, prompt_ids: PromptIds, **options: Unpack[GenerateOptions]) -> Completion:
        """Sample one completion of a prompt; see :meth:`AsyncTitoClient.generate`."""
        given = GENERATE.complete(self.generate, options)
        return self._call(functools.partial(generate, self._caller, prompt_ids, given), given["deadline"])

    @SCORE.shown_by
    def score(self, token_ids: PromptIds, **options: Unpack[ScoreOptions]) -> PromptLogprobs:
        """Ask for the log-probability of each of these tokens; see :meth:`AsyncTitoClient.score`."""
        given = SCORE.complete(self.score, options)
        scoring = score.make_scoring(self._caller, token_ids, given["start"], given)
        return self._call(functools.partial(score.score, self._caller, scoring), given["deadline"])

    @SCORE_MANY.shown_by
    def score_many(
        self,
        sequences: Iterable[PromptIds],
        *,
        start: int | Sequence[int] = 0,
        concurrency: int = SCORE_CONCURRENCY,
        progress: Progress | None = None,
        **options: Unpack[ScoreManyOptions],
    ) -> list[PromptLogprobs | TitoError]:
        """Score many sequences, each on a thread; see :meth:`AsyncTitoClient.score_many`.

        ``progress`` is called on the calling thread. What it raises, or an interrupt, ends the call once the sequences
        in flight have ended; no further one is begun.
        """
        given = SCORE_MANY.complete(self.score_many, options)
        scorings = score.make_scorings(self._caller, sequences, start, given)
        results: dict[int, PromptLogprobs | TitoError] = {}
        pool = ThreadPoolExecutor(score.checked_concurrency(concurrency), thread_name_prefix="tito-score")
        try:
            futures = {
                pool.submit(self._call, functools.partial(score.score, self._caller, one), given["deadline"]): number
                for number, one in enumerate(scorings)
            }
            for future in as_completed(futures):
                # Popped, so that only the results hold what is done.
                number = futures.pop(future)
                try:
                    results[number] = future.result()
                except TitoError as error:
                    results[number] = score.without_tracebacks(error)
                if progress is not None:
                    progress(len(results), len(scorings))
        finally:
            pool.shutdown(cancel_futures=True)
        return [results[number] for number in range(len(scorings))]

    @TOKENIZE.shown_by
    def tokenize(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[TokenizeOptions]) -> list[int]:
        """The tokens of a conversation; see :meth:`AsyncTitoClient.tokenize`."""
        given = TOKENIZE.complete(self.tokenize, options)
        return self._call(functools.partial(text.tokenize, self._caller, messages, given), None)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens; see :meth:`AsyncTitoClient.detokenize`."""
        return self._call(functools.partial(text.detokenize, self._caller, token_ids), None)

    def fleet(self, **_: object) -> NoReturn:
        """Not here: a fleet is asynchronous; see :meth:`AsyncTitoClient.fleet`."""
        raise NotImplementedError("a fleet is asynchronous: use AsyncTitoClient.fleet")

    def close(self) -> None:
        """Close the connections; see :meth:`AsyncTitoClient.aclose`. Calls in flight on other threads fail."""
        self._closed = True
        if os.getpid() == self._process:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, begin: Callable[[float | None], Steps[T]], seconds: float | None) -> T:
        deadline = deadline_after(self._allowed(seconds))
        self._check_usable()
        return self._drive(begin(deadline), deadline)

    def _drive(self, steps: Steps[T], deadline: float | None) -> T:
        answer: Any = None
        failure: TitoError | None = None
        with contextlib.closing(steps):
            while True:
                try:
                    step = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                finally:
                    answer = failure = None
                try:
                    answer = self._perform(step, deadline)
                except TitoError as error:
                    failure = error  # raised in the steps

    def _perform(self, step: object, deadline: float | None) -> object:
        match step:
            case Send():
                return self._send(step, deadline)
            case Read():
                return step.reading(step.content)
            case Sleep():
                time.sleep(step.seconds)
                return None
            case Exclusive():
                with acquired(self._turns, deadline):
                    return self._drive(step.steps(), deadline)
            case _:
                raise TypeError(f"no step: {step!r}")

    def _send(self, step: Send, deadline: float | None) -> object:
        own = deadline_after(step.timeout)
        deadline = min((end for end in (own, deadline) if end is not None), default=None)
        exchange = Exchange(step.request, step.into_body, deadline, expected=step.expected)
        with acquired(self._slots, deadline):
            try:
                with exchange:
                    return self._transport.send(exchange)
            except TransportError:
                if deadline is None or time.monotonic() < deadline:
                    raise
        raise deadline_error(exchange)
