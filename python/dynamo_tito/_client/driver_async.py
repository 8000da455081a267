"""The client on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from dynamo_tito._config import BACKEND_TRANSPORTS, Backend, HttpLibrary
from dynamo_tito._errors import TitoError
from dynamo_tito._http import open_async
from dynamo_tito._http.base import Exchange, Wiring

from . import score, text
from .base import BaseClient
from .deadline import CurrentExchange, deadline_after, time_limit
from .generate import generate
from .options import CLIENT, GENERATE, SCORE, SCORE_CONCURRENCY, SCORE_MANY, TOKENIZE
from .steps import Exclusive, Read, Send, Sleep
from .threads import in_thread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dynamo_tito._requests import PromptIds
    from dynamo_tito._types import Completion, PromptLogprobs
    from dynamo_tito.control import Fleet

    from .options import ClientOptions, GenerateOptions, Progress, ScoreManyOptions, ScoreOptions, TokenizeOptions
    from .steps import Steps

T = TypeVar("T")


class AsyncTitoClient(BaseClient):
    """Token ids in, arrays out, on an event loop.

    One client serves one server from one event loop, with up to ``max_concurrency`` calls in flight. Use it as a
    context manager or call :meth:`aclose`.

    Args:
        base_url: the server, with or without ``/v1``; credentials in it are sent as a header and shown nowhere.
        model: the model's name; None where the server needs none.
        transport: which route takes the ids; a call may choose another.
        http: ``"httpx"``; or ``"aiohttp"`` (extra ``dynamo-tito[aiohttp]``), which moves large bodies and many requests
            in a fraction of the time; or ``"native"``, the engine of the compiled core, which leaves the loop alone.
        http_client: a client of one's own instead: an ``httpx.AsyncClient`` or ``aiohttp.ClientSession``, which stays
            open when this one closes, or a :class:`dynamo_tito.AsyncHttpEngine`.
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
        experts: ``"int32"``, ``"native"`` or ``"skip"``, as in :func:`dynamo_tito.decode`.
        missing_logprob: ``"raise"`` or ``"nan"``, likewise.
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

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument that makes no sense.
    """

    _backend: Backend | None = None

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        self._transport = open_async(http, client, wiring)
        self._slots = asyncio.Semaphore(self._concurrency)
        self._turns = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

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
        return await self._call(functools.partial(generate, self._caller, prompt_ids, given), given["deadline"])

    @SCORE.shown_by
    async def score(self, token_ids: PromptIds, **options: Unpack[ScoreOptions]) -> PromptLogprobs:
        """Ask for the log-probability of each of these tokens, given those before it.

        The engine runs the sequence as a prompt and samples one token, which is thrown away. Every value is looked up
        by the token's own id, so the order in which a server lists alternatives does not matter.

        Args:
            token_ids: the sequence [N]: a list, or an integer array; each in [0, 2^31-1].
            **options: see :class:`ScoreOptions`.

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
        given = SCORE.complete(self.score, options)
        scoring = score.make_scoring(self._caller, token_ids, given["start"], given)
        return await self._call(functools.partial(score.score, self._caller, scoring), given["deadline"])

    @SCORE_MANY.shown_by
    async def score_many(
        self,
        sequences: Iterable[PromptIds],
        *,
        start: int | Sequence[int] = 0,
        concurrency: int = SCORE_CONCURRENCY,
        progress: Progress | None = None,
        **options: Unpack[ScoreManyOptions],
    ) -> list[PromptLogprobs | TitoError]:
        """Score many sequences. The failure of one does not affect the others.

        Args:
            sequences: token ids of each, as for :meth:`score`.
            start: one for all, or one for each.
            concurrency: how many are in flight at once.
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

        async def work() -> None:
            for number, scoring in waiting:
                try:
                    steps = functools.partial(score.score, self._caller, scoring)
                    results[number] = await self._call(steps, given["deadline"])
                except TitoError as error:
                    results[number] = score.without_tracebacks(error)
                if progress is not None:
                    progress(len(results), len(scorings))

        count = min(score.checked_concurrency(concurrency), len(scorings))
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
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, begin: Callable[[float | None], Steps[T]], deadline: float | None) -> T:
        seconds = self._allowed(deadline)
        steps = begin(deadline_after(seconds))
        self._check_usable()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("the client is in use on another event loop; make one per loop")
        current = CurrentExchange()
        async with time_limit(seconds, current):
            return await self._drive(steps, current)

    async def _drive(self, steps: Steps[T], current: CurrentExchange) -> T:
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
                    answer = await self._perform(step, current)
                except TitoError as error:
                    failure = error  # raised in the steps

    async def _perform(self, step: object, current: CurrentExchange) -> object:
        match step:
            case Send():
                async with time_limit(step.timeout, current), self._slots:
                    current.exchange = exchange = Exchange(step.request, step.into_body, expected=step.expected)
                    with exchange:
                        return await self._transport.asend(exchange)
            case Read():
                if len(step.content) < self._thread_from_bytes:
                    return step.reading(step.content)
                return await in_thread(functools.partial(step.reading, step.content))
            case Sleep():
                await asyncio.sleep(step.seconds)
                return None
            case Exclusive():
                async with self._turns:
                    return await self._drive(step.steps(), current)
            case _:
                raise TypeError(f"no step: {step!r}")


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
