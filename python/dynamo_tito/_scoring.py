"""Scoring: what an engine thinks of tokens that were sampled elsewhere. The part that both clients have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack, cast

import numpy as np

from ._errors import TitoError
from ._requests.call import checked_integer

if TYPE_CHECKING:
    from ._calls import Caller, Scoring
    from ._config import RendererTransport
    from ._requests import PromptIds
    from ._retry import Steps
    from ._types import PromptLogprobs

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int], object]
"""Called after every sequence with how many are done, failed ones included, and how many there are."""

SCORE_CONCURRENCY = 32
"""Sequences in flight at once. Scoring is prefill only: a few long sequences fill an engine."""


class ScoreManyOptions(TypedDict, total=False):
    """The keywords of ``score_many`` that are the same for every sequence; see :meth:`AsyncTitoClient.score`."""

    top_k: int
    temperature: float
    cache_salt: str | None
    priority: int | None
    extra_body: Mapping[str, Any] | None
    session_id: str | None
    data_parallel_rank: int | None
    extra_headers: Mapping[str, str] | None
    transport: RendererTransport | None


_DEFAULTS: ScoreManyOptions = {
    "top_k": 0,
    "temperature": 1.0,
    "cache_salt": None,
    "priority": None,
    "extra_body": None,
    "session_id": None,
    "data_parallel_rank": None,
    "extra_headers": None,
    "transport": None,
}


class AsyncScoring:
    """``score`` and ``score_many`` on an event loop."""

    _caller: Caller

    async def _call(self, begin: Callable[[float | None], Steps[T]], deadline: float | None) -> T:
        raise NotImplementedError

    async def score(
        self,
        token_ids: PromptIds,
        *,
        start: int = 0,
        top_k: int = 0,
        temperature: float = 1.0,
        cache_salt: str | None = None,
        priority: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        data_parallel_rank: int | None = None,
        request_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        transport: RendererTransport | None = None,
    ) -> PromptLogprobs:
        """Ask for the log-probability of each of these tokens, given those before it.

        The engine runs the sequence as a prompt and samples one token, which is thrown away. Every value is looked up
        by the token's own id, so the order in which a server lists alternatives does not matter.

        Args:
            token_ids: the sequence [N]: a list, or an integer array; each in [0, 2^31-1].
            start: the first position whose log-probability is wanted, 0 to N; of a prompt and its completion usually
                where the completion begins. SGLang scores only from there on; elsewhere the rest is left out when the
                answer is read.
            top_k: how many alternatives to list at each position, beside the token itself.
            temperature: what the model's logits are divided by before they become log-probabilities. Only a patched
                SGLang has one (sgl-project/sglang#36213) and says so in its answer; elsewhere anything but 1 is a
                ValueError, or, of an SGLang without it, a MissingFieldError.
            cache_salt: as for :meth:`generate`, likewise ``priority``, ``extra_body``, ``session_id``,
                ``data_parallel_rank``, ``request_id``, ``extra_headers``, ``deadline`` and ``transport``.
            priority: see above.
            extra_body: see above.
            session_id: see above.
            data_parallel_rank: see above.
            request_id: see above.
            extra_headers: see above.
            deadline: see above.
            transport: see above.

        Returns:
            Always N positions: ``logprobs`` is float64 [N], NaN before ``start``, at position 0, and, with the client's
            ``missing_logprob="nan"``, where the engine has none. ``top`` has the entries of each position from
            ``start`` on, the token's own among them.

        Raises:
            TypeError, ValueError: a wrong argument; nothing was sent.
            OverlongPromptError: the sequence does not fit; nothing was sent.
            ServerError: the server answered with an error.
            TransportError: no complete answer came back in time.
            DecodeError: the answer cannot be trusted: it misses positions or has too many (AlignmentError), does not
                score the tokens that were sent (AlignmentError), or scores none (MissingFieldError).
        """
        scoring = self._caller.scoring(
            token_ids,
            start=start,
            top_k=top_k,
            temperature=temperature,
            cache_salt=cache_salt,
            priority=priority,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            extra_headers=extra_headers,
            transport=transport,
        )
        return await self._call(_steps(self._caller, scoring), deadline)

    async def score_many(
        self,
        sequences: Iterable[PromptIds],
        *,
        start: int | Sequence[int] = 0,
        concurrency: int = SCORE_CONCURRENCY,
        progress: Progress | None = None,
        deadline: float | None = None,
        **options: Unpack[ScoreManyOptions],
    ) -> list[PromptLogprobs | TitoError]:
        """Score many sequences. What fails does not take the others with it.

        Args:
            sequences: token ids of each, as for :meth:`score`.
            start: one for all, or one for each.
            concurrency: how many are in flight at once.
            progress: called with the number of sequences that are done, failed ones included, and of all, after each.
            deadline: seconds for each sequence, from when its turn comes.
            **options: as for :meth:`score`.

        Returns:
            For each sequence, in order, its scores, or the error that it ended in.

        Raises:
            TypeError, ValueError: a wrong argument, found before anything is sent; also whatever ``progress`` raises,
                which ends the calls in flight.
        """
        scorings = _checked(self._caller, sequences, start, options)
        results: list[PromptLogprobs | TitoError | None] = [None] * len(scorings)
        waiting = iter(enumerate(scorings))
        done = 0

        async def work() -> None:
            nonlocal done
            for number, scoring in waiting:
                try:
                    results[number] = await self._call(_steps(self._caller, scoring), deadline)
                except TitoError as error:
                    results[number] = _kept(error)
                done += 1
                if progress is not None:
                    progress(done, len(scorings))

        workers = [asyncio.ensure_future(work()) for _ in range(min(_at_once(concurrency), len(scorings)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return _whole(results)


class SyncScoring:
    """``score`` and ``score_many`` on the calling thread."""

    _caller: Caller

    def _call(self, begin: Callable[[float | None], Steps[T]], deadline: float | None) -> T:
        raise NotImplementedError

    def score(
        self,
        token_ids: PromptIds,
        *,
        start: int = 0,
        top_k: int = 0,
        temperature: float = 1.0,
        cache_salt: str | None = None,
        priority: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        data_parallel_rank: int | None = None,
        request_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        transport: RendererTransport | None = None,
    ) -> PromptLogprobs:
        """Ask for the log-probability of each of these tokens; see :meth:`AsyncTitoClient.score`."""
        scoring = self._caller.scoring(
            token_ids,
            start=start,
            top_k=top_k,
            temperature=temperature,
            cache_salt=cache_salt,
            priority=priority,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            extra_headers=extra_headers,
            transport=transport,
        )
        return self._call(_steps(self._caller, scoring), deadline)

    def score_many(
        self,
        sequences: Iterable[PromptIds],
        *,
        start: int | Sequence[int] = 0,
        concurrency: int = SCORE_CONCURRENCY,
        progress: Progress | None = None,
        deadline: float | None = None,
        **options: Unpack[ScoreManyOptions],
    ) -> list[PromptLogprobs | TitoError]:
        """Score many sequences, each on a thread; see :meth:`AsyncTitoClient.score_many`.

        ``progress`` is called on the calling thread. What it raises, or an interrupt, ends the call once those in
        flight have ended; the rest is not begun.
        """
        scorings = _checked(self._caller, sequences, start, options)
        results: list[PromptLogprobs | TitoError | None] = [None] * len(scorings)
        pool = ThreadPoolExecutor(_at_once(concurrency), thread_name_prefix="tito-score")
        try:
            futures = {
                pool.submit(self._call, _steps(self._caller, scoring), deadline): number
                for number, scoring in enumerate(scorings)
            }
            for done, future in enumerate(as_completed(futures), 1):
                # Popped: what is done is held by the results alone.
                number = futures.pop(future)
                try:
                    results[number] = future.result()
                except TitoError as error:
                    results[number] = _kept(error)
                if progress is not None:
                    progress(done, len(scorings))
        finally:
            pool.shutdown(cancel_futures=True)
        return _whole(results)


def _steps(caller: Caller, scoring: Scoring) -> Callable[[float | None], Steps[PromptLogprobs]]:
    return lambda ends: caller.score(scoring, deadline=ends)


def _checked(
    caller: Caller, sequences: Iterable[PromptIds], start: int | Sequence[int], options: ScoreManyOptions
) -> list[Scoring]:
    """Every sequence with its start, ids included: a wrong one must not surface when half of them have been scored."""
    if unknown := options.keys() - _DEFAULTS.keys():
        raise TypeError(f"score_many() got an unexpected keyword argument {min(unknown)!r}")
    ids = list(sequences)
    starts: list[Any] = [start] * len(ids) if isinstance(start, (int, np.integer)) else list(start)
    if len(starts) != len(ids):
        raise ValueError(f"{len(starts)} starts for {len(ids)} sequences")
    given: dict[str, Any] = {**_DEFAULTS, **options}
    scorings = []
    for number, (one, begin) in enumerate(zip(ids, starts, strict=True)):
        try:
            scoring = caller.scoring(one, start=begin, request_id=None, **given)
            scoring.body()
        except (TypeError, ValueError, NotImplementedError) as error:
            error.add_note(f"in sequences[{number}]")
            raise
        scorings.append(scoring)
    return scorings


def _at_once(concurrency: int) -> int:
    if checked_integer("concurrency", concurrency) < 1:
        raise ValueError("concurrency must be at least 1")
    return concurrency


def _kept(error: TitoError) -> TitoError:
    """The error without tracebacks: their frames hold the bodies of request and answer."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _whole(results: list[PromptLogprobs | TitoError | None]) -> list[PromptLogprobs | TitoError]:
    """Every sequence has been worked on by now."""
    return cast("list[PromptLogprobs | TitoError]", results)
