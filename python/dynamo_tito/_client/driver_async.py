"""The client on an event loop."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from dynamo_tito._config import BACKEND_TRANSPORTS, Backend, HttpLibrary
from dynamo_tito._errors import TitoError
from dynamo_tito._http import open_async
from dynamo_tito._http.base import AsyncStreamingHttpEngine, Wiring

from . import score, text
from .abort import abort
from .base import BaseClient
from .deadline import deadline_after
from .generate import Generation
from .options import CLIENT, GENERATE, SCORE, SCORE_CONCURRENCY, SCORE_MANY, STREAM, TOKENIZE
from .run_async import AsyncRunner
from .stream_async import AsyncTitoStream

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._requests import PromptIds
    from dynamo_tito._types import Completion, PromptLogprobs
    from dynamo_tito.control import Fleet

    from .options import (
        ClientOptions,
        GenerateOptions,
        Progress,
        ScoreManyOptions,
        ScoreOptions,
        StreamOptions,
        TokenizeOptions,
    )
    from .steps import Steps

T = TypeVar("T")


class AsyncTitoClient(BaseClient):
    """Token ids in, arrays out, on an event loop.

    One client serves one server, with up to ``max_concurrency`` calls in flight on each event loop that uses it; only
    ``http="native"`` takes more than one loop. Use it as a context manager or call :meth:`aclose`.

    Args:
        base_url: the server, with or without ``/v1``; credentials in it are sent as a header and shown nowhere.
        model: the model's name; None where the server needs none.
        transport: which route takes the ids; a call may choose another.
        http: ``"native"``, the engine of the compiled core, which leaves the loop alone; or ``"httpx"`` (extra
            ``dynamo-tito[httpx]``), which promises less: see ``docs/reliability.md``.
        http_client: a client of one's own instead: an ``httpx.AsyncClient``, ``aiohttp.ClientSession`` or
            ``openai.AsyncOpenAI``, which stays open when this one closes, or a :class:`dynamo_tito.AsyncHttpEngine`.
        timeout: seconds that a call may take in all, waiting for a free connection included; None for no limit.
        connect_timeout: seconds for one connection and its TLS handshake.
        max_concurrency: requests in flight; further calls wait. Never more than the process may open files.
        api_key: sent as a bearer token, shown nowhere.
        headers: sent with every request.
        retries: when a request that was certainly not sampled is sent again; None for never.
        preflight: ask the server once how long a prompt may be, and refuse longer ones unsent.
        sampling_defaults: what a call's open sampling parameters are: ``"neutral"`` (temperature 1, top_p 1, top_k off,
            min_p 0, neutral penalties), or ``"model"``, the server's defaults, which most routes take from the model's
            ``generation_config.json``.
        num_layers: decoder layers, to read SGLang's routed experts and to check those of others.
        top_k: experts per token, likewise.
        num_indexer_layers: layers with an indexer of a sparse attention, to read SGLang's ``indexer_topk``.
        index_topk: how many positions the indexer chooses, likewise.
        experts: ``"int32"``, ``"native"`` or ``"skip"``, as in :func:`dynamo_tito.decode`.
        missing_logprob: ``"raise"`` or ``"nan"``, likewise.
        logprobs_dtype: ``"float64"`` or ``"float32"``, likewise, of every log-probability that the client returns.
        require_routed_experts: their absence is an error.
        final_row: ``"omitted"`` or ``"present"``, likewise.
        strict_routing: refuse routed experts that show signs of a broken capture, such as layers of zeros; a mapping
            with ``num_experts``, ``dense_layers`` and ``max_run`` says what the model is like
            (:func:`dynamo_tito.rollout.routing_report`).
        strict_logprobs: refuse log-probabilities that no engine computed for these tokens, such as zeros throughout; a
            mapping gives thresholds (:func:`dynamo_tito.logprobs_report`).
        limits: ceilings of every answer: bytes, tokens, rows, depth; see :class:`dynamo_tito.Limits`.
        max_response_bytes: short for limits that differ in this alone: the largest body taken, as sent and as
            decompressed.
        thread_from_bytes: bodies from this size on are decoded in a thread, so that the loop keeps running.
        compression: let the server compress; off, because routed experts hardly compress and it costs both ends time.
        tls: ``"verify"``, ``"insecure"``, or an :class:`ssl.SSLContext`.
        trust_env: use the proxies that the environment names.
        save_refused: a directory where an answer that cannot be read is kept, with its request without secrets and the
            error, for a report; ``dynamo-tito decode FILE.json`` and :func:`dynamo_tito.replay` come to the same error.
            It takes 100 answers and 1 GiB.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument that makes no sense.
    """

    _backend: Backend | None = None

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        transport = open_async(http, client, wiring)
        self._runner = AsyncRunner(transport, concurrency=self._concurrency, thread_from_bytes=self._thread_from_bytes)
        self._caller.streams = isinstance(transport, AsyncStreamingHttpEngine)

    @GENERATE.shown_by
    async def generate(self, prompt_ids: PromptIds, **options: Unpack[GenerateOptions]) -> Completion:
        """Sample one completion of a prompt.

        A request is sampled at most once: it is sent again only where the first one certainly reached no engine.
        Cancelling the call closes its connection, which is how engines are told to stop.

        Args:
            prompt_ids: token ids [P]: a list, or an integer array; each in [0, 2^31-1].
            **options: see :class:`GenerateOptions`.

        Returns:
            The completion, decoded with every check of :func:`dynamo_tito.decode`.

        Raises:
            TypeError, ValueError, NotImplementedError: a wrong argument; nothing was sent.
            OverlongPromptError: the prompt does not fit; nothing was sent.
            ServerError: the server answered with an error.
            TransportError: no complete answer came back in time.
            DecodeError: the answer cannot be trusted.
        """
        given = GENERATE.complete(self.generate, options)
        generation = Generation(self._caller, prompt_ids, given, emits=False)
        try:
            return await self._call(generation.steps, given["deadline"])
        except BaseException as error:
            kept = generation.kept(error)
            if kept is None:
                raise
            return kept

    @STREAM.shown_by
    def stream(self, prompt_ids: PromptIds, **options: Unpack[StreamOptions]) -> AsyncTitoStream:
        """Sample one completion of a prompt, and see its tokens as they come.

        Example::

            async with client.stream(prompt_ids) as stream:
                async for delta in stream:
                    print(delta.token_ids)
            stream.completion

        The completion is the same as that of :meth:`generate`. The request is sent when the stream is entered, or
        asked for its first tokens, and never a second time once it may have reached an engine. The deadline is that of
        the whole stream, the time between two questions included.

        Args:
            prompt_ids: as for :meth:`generate`.
            **options: see :class:`GenerateOptions`.

        Raises:
            TypeError, ValueError, NotImplementedError: a wrong argument; the stream itself raises the errors of
                :meth:`generate`.
        """
        given = STREAM.complete(self.stream, options)
        generation = Generation(self._caller, prompt_ids, given, emits=True)
        return AsyncTitoStream(self._runner, generation, self._allowed(given["deadline"]), self._check_usable)

    async def abort(self, request_id: str, *, admin_base_url: str | Sequence[str] | None = None) -> None:
        """Have the server end a request that this client sent; its call then returns an aborted completion.

        vLLM has ``/inference/v1/abort_requests``, or ``/abort_requests``, SGLang ``/abort_request``, and each worker of
        Dynamo ``/engine/abort_request``. A request that is over, or unknown to the server, is no error.

        Args:
            request_id: the ``request_id`` of the call, that of the stream, or that of the answer.
            admin_base_url: the servers that have the route, instead of this one: of Dynamo the system servers of the
                workers. The client's credentials are sent to them.

        Raises:
            ValueError: this client sent no request with this id, or SGLang would abort another one of it.
            NotFoundError: the server has no such route.
            ServerError, TransportError: the server did not take the request.
        """
        await self._call(functools.partial(abort, self._caller, request_id, admin_base_url), None)

    @SCORE.shown_by
    async def score(self, token_ids: PromptIds, **options: Unpack[ScoreOptions]) -> PromptLogprobs:
        """Ask for the log-probability of each of these tokens, given those before it.

        The engine runs the sequence as a prompt and samples one token, which is thrown away. Every value is looked up
        by the token's own id, so the order in which a server lists alternatives does not matter.

        Args:
            token_ids: the sequence [N]: a list, or an integer array; each in [0, 2^31-1].
            **options: see :class:`ScoreOptions`.

        Returns:
            Always N positions: ``logprobs`` is of the client's ``logprobs_dtype`` [N], NaN before ``start``, at
            position 0, and, with the client's ``missing_logprob="nan"``, where the engine has none. ``top`` has the
            entries of each position from ``start`` on, the token's own among them.

        Raises:
            TypeError, ValueError: a wrong argument; nothing was sent.
            OverlongPromptError: the sequence does not fit; nothing was sent.
            ServerError: the server answered with an error.
            TransportError: no complete answer came back in time.
            DecodeError: the answer cannot be trusted: it misses positions or has too many (AlignmentError), does not
                score the tokens that were sent (AlignmentError), or scores none (MissingFieldError).
        """
        given = SCORE.complete(self.score, options)
        scoring = score.make_scoring(self._caller, token_ids, given["start"], given)
        return await self._call(functools.partial(score.score, self._caller, scoring), given["deadline"])

    @SCORE_MANY.shown_by
    async def score_many(
        self,
        sequences: Iterable[PromptIds],
        *,
        start: int | Sequence[int] = 0,
        concurrency: int | asyncio.Semaphore = SCORE_CONCURRENCY,
        progress: Progress | None = None,
        **options: Unpack[ScoreManyOptions],
    ) -> list[PromptLogprobs | TitoError]:
        """Score many sequences. The failure of one does not affect the others.

        Args:
            sequences: token ids of each, as for :meth:`score`.
            start: one for all, or one for each.
            concurrency: how many are in flight at once, or a semaphore of it that several calls share.
            progress: called with the number of sequences that are done, failed ones included, and of all, after each.
            **options: as for :meth:`score`; ``deadline`` is in seconds for each sequence, from when its turn comes.

        Returns:
            For each sequence, in order, its scores, or the error that it ended in.

        Raises:
            TypeError, ValueError: a wrong argument, found before anything is sent; also whatever ``progress`` raises,
                which ends the calls in flight.
        """
        given = SCORE_MANY.complete(self.score_many, options)
        scorings = score.make_scorings(self._caller, sequences, start, given)
        results: dict[int, PromptLogprobs | TitoError] = {}
        waiting = iter(enumerate(scorings))
        if isinstance(concurrency, asyncio.Semaphore):
            in_flight, count = concurrency, len(scorings)
        else:
            count = min(score.checked_concurrency(concurrency), len(scorings))
            in_flight = asyncio.Semaphore(count)

        async def work() -> None:
            for number, scoring in waiting:
                async with in_flight:
                    try:
                        steps = functools.partial(score.score, self._caller, scoring)
                        results[number] = await self._call(steps, given["deadline"])
                    except TitoError as error:
                        results[number] = score.without_tracebacks(error)
                if progress is not None:
                    progress(len(results), len(scorings))

        workers = [asyncio.ensure_future(work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [results[number] for number in range(len(scorings))]

    @TOKENIZE.shown_by
    async def tokenize(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[TokenizeOptions]) -> list[int]:
        """The tokens of a conversation by the server's chat template, as vLLM's ``/tokenize`` answers."""
        given = TOKENIZE.complete(self.tokenize, options)
        return await self._call(functools.partial(text.tokenize, self._caller, messages, given), None)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Their text, as vLLM's ``/detokenize`` answers (``prompt``), or SGLang's (``text``)."""
        return await self._call(functools.partial(text.detokenize, self._caller, token_ids), None)

    async def fleet(
        self, *, rl_base_url: str | None = None, admin_base_url: str | Sequence[str] | None = None
    ) -> Fleet:
        """The workers behind this server, to be paused and updated, over connections of their own.

        The backend is the one that :func:`connect` was told; a client made otherwise asks the server.

        Args:
            rl_base_url: where Dynamo's discovery listens; see :meth:`dynamo_tito.control.Fleet.connect`.
            admin_base_url: the workers; skips discovery.

        Raises:
            AdminError: discovery failed, lists no worker or a broken one, or the model is not served.
            ServerError, TransportError: a server could not be asked.
        """
        from dynamo_tito.control import Fleet  # noqa: PLC0415 - loaded when it is needed

        return await Fleet.connect(
            self.base_url,
            backend=self._backend,
            model=self.model,
            rl_base_url=rl_base_url,
            admin_base_url=admin_base_url,
            headers=self._caller.endpoint.headers,
            **self._reach,
        )

    async def aclose(self) -> None:
        """Close the connections. Calls in flight fail. In a forked child this does nothing: they are the parent's."""
        self._closed = True
        if os.getpid() == self._process:
            await self._runner.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _call(self, begin: Callable[[float | None], Steps[T]], deadline: float | None) -> Coroutine[Any, Any, T]:
        seconds = self._allowed(deadline)
        steps = begin(deadline_after(seconds))
        self._check_usable()
        return self._runner.run(steps, seconds)

    def _check_usable(self) -> None:
        super()._check_usable()
        self._runner.check_loop()


@CLIENT.shown_by
def connect(base_url: str, *, backend: Backend, model: str | None, **options: Unpack[ClientOptions]) -> AsyncTitoClient:
    """A client for a server of this kind; its :meth:`AsyncTitoClient.fleet` administers the workers in the same words.

    Args:
        base_url: the server.
        backend: ``"vllm"`` and ``"prime"`` choose the transport ``vllm_generate``, ``"dynamo"`` ``dynamo_chat``,
            ``"sglang"`` ``sglang_generate``.
        model: the model's name; None where the server needs none.
        **options: as for :class:`AsyncTitoClient`.
    """
    try:
        transport = BACKEND_TRANSPORTS[backend]
    except (KeyError, TypeError):
        raise ValueError(f"backend must be one of {', '.join(BACKEND_TRANSPORTS)}, not {backend!r}") from None
    client = AsyncTitoClient(base_url, model=model, transport=transport, **options)
    client._backend = backend  # noqa: SLF001 - made here
    return client
