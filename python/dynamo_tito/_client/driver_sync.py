"""The client on the calling thread."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

from dynamo_tito._errors import TitoError
from dynamo_tito._http import open_sync
from dynamo_tito._http.base import StreamingHttpEngine, Wiring

from . import score, text
from .abort import abort
from .base import BaseClient
from .deadline import deadline_after
from .generate import Generation
from .options import GENERATE, SCORE, SCORE_CONCURRENCY, SCORE_MANY, STREAM, TOKENIZE
from .run_sync import Runner
from .stream_sync import TitoStream

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._config import HttpLibrary
    from dynamo_tito._requests import PromptIds
    from dynamo_tito._types import Completion, PromptLogprobs

    from .options import GenerateOptions, Progress, ScoreManyOptions, ScoreOptions, StreamOptions, TokenizeOptions
    from .steps import Steps

T = TypeVar("T")


class TitoClient(BaseClient):
    """Token ids in, arrays out, on the calling thread. Threads may share it.

    The arguments are those of :class:`AsyncTitoClient`; ``http_client`` is an ``httpx.Client``, an ``openai.OpenAI`` or
    a :class:`dynamo_tito.HttpEngine`. The methods are the same but for ``fleet``, which is asynchronous.
    """

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        transport = open_sync(http, client, wiring)
        self._runner = Runner(transport, concurrency=self._concurrency)
        self._caller.streams = isinstance(transport, StreamingHttpEngine)

    @GENERATE.shown_by
    def generate(self, prompt_ids: PromptIds, **options: Unpack[GenerateOptions]) -> Completion:
        """Sample one completion of a prompt; see :meth:`AsyncTitoClient.generate`."""
        given = GENERATE.complete(self.generate, options)
        generation = Generation(self._caller, prompt_ids, given, emits=False)
        try:
            return self._call(generation.steps, given["deadline"])
        except BaseException as error:
            kept = generation.kept(error)
            if kept is None:
                raise
            return kept

    @STREAM.shown_by
    def stream(self, prompt_ids: PromptIds, **options: Unpack[StreamOptions]) -> TitoStream:
        """Sample one completion of a prompt, and see its tokens as they come; see :meth:`AsyncTitoClient.stream`.

        Example::

            with client.stream(prompt_ids) as stream:
                for delta in stream:
                    print(delta.token_ids)
            stream.completion
        """
        given = STREAM.complete(self.stream, options)
        generation = Generation(self._caller, prompt_ids, given, emits=True)
        return TitoStream(self._runner, generation, self._allowed(given["deadline"]), self._check_usable)

    def abort(self, request_id: str, *, admin_base_url: str | Sequence[str] | None = None) -> None:
        """Have the server end a request that this client sent; see :meth:`AsyncTitoClient.abort`."""
        self._call(functools.partial(abort, self._caller, request_id, admin_base_url), None)

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
            self._runner.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, begin: Callable[[float | None], Steps[T]], seconds: float | None) -> T:
        deadline = deadline_after(self._allowed(seconds))
        self._check_usable()
        return self._runner.run(begin(deadline), deadline)
