"""The clients: two drivers of the same steps (:mod:`._calls`), one on an event loop, one on the calling thread."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, Unpack

from ._calls import Alone, Caller, Decoding, Read, Send, Sleep
from ._config import (
    BACKEND_TRANSPORTS,
    CONNECT_TIMEOUT,
    DEFAULT_TIMEOUT,
    MAX_CONCURRENCY,
    THREAD_FROM_BYTES,
    Backend,
    HttpLibrary,
    Limits,
    RendererTransport,
    RetryPolicy,
    SamplingDefaults,
)
from ._endpoint import make_endpoint, secrets_of_url
from ._errors import MissingFieldError, TitoError, TransportError
from ._logprobs_report import logprobs_checks
from ._routing_report import routing_checks
from ._scoring import AsyncScoring, SyncScoring
from ._threads import in_thread
from ._transports import open_async, open_sync
from ._transports.base import Exchange, Wiring
from ._transports.environment import Tls, proxy_for, tls_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from ._logprobs_report import LogprobsChecks
    from ._requests import PromptIds
    from ._retry import Steps
    from ._routing_report import RoutingChecks
    from ._types import Completion, ExpertsMode, FinalRow, MissingLogprob
    from .control import Fleet, HttpOptions

T = TypeVar("T")

_SPARE_DESCRIPTORS = 128
"""File descriptors that are left to the rest of the process."""


class ClientOptions(TypedDict, total=False):
    """The keywords of both clients, but for ``transport``; see :class:`AsyncTitoClient`."""

    http: HttpLibrary
    http_client: Any
    timeout: float | None
    connect_timeout: float
    max_concurrency: int
    api_key: str | None
    headers: Mapping[str, str] | None
    retries: RetryPolicy | None
    preflight: bool
    sampling_defaults: SamplingDefaults
    num_layers: int | None
    top_k: int | None
    experts: ExpertsMode
    missing_logprob: MissingLogprob
    require_routed_experts: bool
    final_row: FinalRow
    strict_routing: bool | RoutingChecks
    strict_logprobs: bool | LogprobsChecks
    limits: Limits | None
    max_response_bytes: int | None
    thread_from_bytes: int
    compression: bool
    tls: Tls
    trust_env: bool


class _Client:
    """What both clients are made of."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        transport: RendererTransport = "vllm_generate",
        http: HttpLibrary = "httpx",
        http_client: Any = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_concurrency: int = MAX_CONCURRENCY,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
        preflight: bool = True,
        sampling_defaults: SamplingDefaults = "neutral",
        num_layers: int | None = None,
        top_k: int | None = None,
        experts: ExpertsMode = "int32",
        missing_logprob: MissingLogprob = "raise",
        require_routed_experts: bool = False,
        final_row: FinalRow = "omitted",
        strict_routing: bool | RoutingChecks = False,
        strict_logprobs: bool | LogprobsChecks = False,
        limits: Limits | None = None,
        max_response_bytes: int | None = None,
        thread_from_bytes: int = THREAD_FROM_BYTES,
        compression: bool = False,
        tls: Tls = "verify",
        trust_env: bool = True,
    ) -> None:
        endpoint = make_endpoint(base_url, api_key=api_key, headers=headers, compression=compression)
        proxy = proxy_for(endpoint.root) if trust_env else None
        endpoint = dataclasses.replace(endpoint, secrets=(*endpoint.secrets, *secrets_of_url(proxy)))
        ceilings = _ceilings(limits, max_response_bytes)
        if not isinstance(retries, RetryPolicy | None):
            raise TypeError(f"retries must be a RetryPolicy or None, not {retries!r}")
        self._caller = Caller(
            endpoint,
            model=model,
            transport=transport,
            retries=RetryPolicy(attempts=1) if retries is None else retries,
            preflight=preflight,
            sampling_defaults=sampling_defaults,
            decoding=Decoding(
                num_layers,
                top_k,
                experts,
                missing_logprob,
                require_routed_experts,
                final_row,
                routing_checks(strict_routing),
                logprobs_checks(strict_logprobs),
                ceilings,
            ),
        )
        self._timeout = _seconds("timeout", timeout)
        connect = _seconds("connect_timeout", connect_timeout)
        if max_concurrency < 1:
            raise ValueError("max_concurrency must be at least 1")
        self._concurrency = min(max_concurrency, _free_descriptors())
        if thread_from_bytes < 1:
            raise ValueError("thread_from_bytes must be at least 1")
        self._thread_from_bytes = thread_from_bytes
        self._process = os.getpid()
        self._closed = False
        wiring = Wiring(
            limits=ceilings,
            connect_timeout=CONNECT_TIMEOUT if connect is None else connect,
            tls=tls_context(tls, endpoint.root, proxy),
            proxy=proxy,
            secrets=endpoint.secrets,
        )
        self._reach: HttpOptions = {"tls": tls, "trust_env": trust_env, "connect_timeout": wiring.connect_timeout}
        self._open(http, http_client, wiring)

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """The server's root, without credentials and without ``/v1``."""
        return self._caller.endpoint.root

    @property
    def model(self) -> str | None:
        """The model that is asked for."""
        return self._caller.model

    @property
    def transport(self) -> RendererTransport:
        """The transport of calls that name none."""
        return self._caller.transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, model={self.model!r}, transport={self.transport!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: a client stays in its process, with its connections; "
            "send its arguments, and make a client where it is used"
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        if os.getpid() != self._process:
            # Two processes on one connection would read each other's answers.
            raise RuntimeError("the client was made in another process; make one after the fork")

    def _allowed(self, deadline: float | None) -> float | None:
        return self._timeout if deadline is None else _seconds("deadline", deadline)


class AsyncTitoClient(AsyncScoring, _Client):
    """Token ids in, arrays out, on an event loop.

    One client serves one server from one event loop, with up to ``max_concurrency`` calls in flight. Use it as a
    context manager or call :meth:`aclose`.

    Args:
        base_url: the server, with or without ``/v1``; credentials in it are sent as a header and shown nowhere.
        model: the model's name; None where the server needs none.
        transport: which route takes the ids; a call may choose another.
        http: ``"httpx"``, or ``"aiohttp"`` (extra ``dynamo-tito[aiohttp]``), which moves large bodies and many requests
            in a fraction of the time.
        http_client: a client of one's own instead: an ``httpx.AsyncClient`` or ``aiohttp.ClientSession``, which stays
            open when this one closes, or an object with the methods of
            :class:`dynamo_tito._transports.base.AsyncTransport`.
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
        self._alone = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def generate(
        self,
        prompt_ids: PromptIds,
        *,
        sampling_params: Mapping[str, Any] | None = None,
        stop_token_ids: Sequence[int] = (),
        cache_salt: str | None = None,
        priority: int | None = None,
        routed_experts_prompt_start: int | None = None,
        features: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        data_parallel_rank: int | None = None,
        request_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        transport: RendererTransport | None = None,
    ) -> Completion:
        r"""Sample one completion of a prompt.

        A request is sampled at most once: it is sent again only where the first one certainly reached no engine.
        Cancelling the call closes its connection, which is how engines are told to stop.

        Args:
            prompt_ids: token ids [P]: a list, or an integer array; each in [0, 2^31-1].
            sampling_params: as for vLLM or OpenAI; names are translated for the server. Without ``logprobs`` one per
                token is asked for; with ``logprobs`` 0 or None none is, and ``completion.logprobs`` is None.
            stop_token_ids: added to those of ``sampling_params``.
            cache_salt: separates prefix caches; 1 to 128 characters without ``@ / \\ NUL``.
            priority: in the backend's own sense: on ``dynamo_chat`` and ``dynamo_completions`` higher is sooner, on
                ``vllm_generate`` (Dynamo's too) and ``prime_chat_tokens`` lower is sooner, SGLang's depends on the
                server's settings.
            routed_experts_prompt_start: the first position whose routed experts are wanted, 0 to P. Whether the server
                trims, ignores the wish or refuses it, the result is the same.
            features: multimodal features; ``vllm_generate`` only.
            extra_body: further members of the request's body; they win over the sampling parameters. On Dynamo an
                ``nvext`` in it is merged with ours.
            session_id: keeps the requests of one conversation together.
            data_parallel_rank: the rank that shall serve it.
            request_id: what the server's logs shall call it.
            extra_headers: for this request.
            deadline: seconds for this call, instead of the client's ``timeout``; ``math.inf`` for no limit.
            transport: for this call, instead of the client's.

        Returns:
            The completion, decoded with every check of :func:`dynamo_tito.decode`.

        Raises:
            TypeError, ValueError, NotImplementedError: the request would be refused, or worse, misunderstood; nothing
                was sent.
            OverlongPromptError: the prompt does not fit; nothing was sent.
            ServerError: the server answered with an error.
            TransportError: no complete answer came back in time.
            DecodeError: the answer cannot be trusted.
        """
        seconds = self._allowed(deadline)
        steps = self._caller.generate(
            prompt_ids,
            sampling_params=sampling_params,
            stop_token_ids=stop_token_ids,
            cache_salt=cache_salt,
            priority=priority,
            routed_experts_prompt_start=routed_experts_prompt_start,
            features=features,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            extra_headers=extra_headers,
            transport=transport,
            deadline=_ends(seconds),
        )
        return await self._run(steps, seconds)

    async def fleet(
        self, *, rl_base_url: str | None = None, admin_base_url: str | Sequence[str] | None = None
    ) -> Fleet:
        """The workers behind this server, to be paused and updated: on connections of their own.

        The backend is the one that :func:`connect` was told; a client made otherwise asks the server.

        Args:
            rl_base_url: where Dynamo's discovery listens; see :meth:`dynamo_tito.control.Fleet.connect`.
            admin_base_url: the workers; skips discovery.

        Raises:
            AdminError: discovery failed, lists no worker or a broken one, or the model is not served.
            ServerError, TransportError: a server could not be asked.
        """
        from .control import Fleet  # noqa: PLC0415 - loaded when it is needed

        options = self._reach.copy()
        options["headers"] = self._caller.endpoint.headers
        return await Fleet.connect(
            self.base_url,
            backend=self._backend,
            model=self.model,
            rl_base_url=rl_base_url,
            admin_base_url=admin_base_url,
            **options,
        )

    async def aclose(self) -> None:
        """Close the connections. Calls in flight fail. In a forked child nothing is touched: they are the parent's."""
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
        return await self._run(begin(_ends(seconds)), seconds)

    async def _run(self, steps: Steps[T], seconds: float | None) -> T:
        self._check_usable()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("the client is in use on another event loop; make one per loop")
        watch = _Watch()
        async with _limited(seconds, watch):
            return await self._drive(steps, watch)

    async def _drive(self, steps: Steps[T], watch: _Watch) -> T:
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
                    answer = await self._perform(step, watch)
                except TitoError as error:
                    failure = error  # for the steps to judge

    async def _perform(self, step: object, watch: _Watch) -> object:
        match step:
            case Send():
                async with _limited(step.timeout, watch), self._slots:
                    watch.exchange = exchange = Exchange(step.request, step.into_body, expected=step.expected)
                    with exchange:
                        return await self._transport.asend(exchange)
            case Read():
                if len(step.content) < self._thread_from_bytes:
                    return step.reading(step.content)
                return await in_thread(functools.partial(step.reading, step.content))
            case Sleep():
                await asyncio.sleep(step.seconds)
                return None
            case Alone():
                async with self._alone:
                    return await self._drive(step.steps(), watch)
            case _:
                raise TypeError(f"no step: {step!r}")


class TitoClient(SyncScoring, _Client):
    """Token ids in, arrays out, on the calling thread. It may be shared by threads.

    The arguments are those of :class:`AsyncTitoClient`; ``http`` is ``"httpx"``, and ``http_client`` an
    ``httpx.Client`` or an object with the methods of :class:`dynamo_tito._transports.base.SyncTransport`.
    """

    def _open(self, http: HttpLibrary, client: Any, wiring: Wiring) -> None:
        self._transport = open_sync(http, client, wiring)
        self._slots = threading.Semaphore(self._concurrency)
        self._alone = threading.Lock()

    def generate(
        self,
        prompt_ids: PromptIds,
        *,
        sampling_params: Mapping[str, Any] | None = None,
        stop_token_ids: Sequence[int] = (),
        cache_salt: str | None = None,
        priority: int | None = None,
        routed_experts_prompt_start: int | None = None,
        features: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        data_parallel_rank: int | None = None,
        request_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        transport: RendererTransport | None = None,
    ) -> Completion:
        """Sample one completion of a prompt; see :meth:`AsyncTitoClient.generate`."""
        ends = _ends(self._allowed(deadline))
        steps = self._caller.generate(
            prompt_ids,
            sampling_params=sampling_params,
            stop_token_ids=stop_token_ids,
            cache_salt=cache_salt,
            priority=priority,
            routed_experts_prompt_start=routed_experts_prompt_start,
            features=features,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            extra_headers=extra_headers,
            transport=transport,
            deadline=ends,
        )
        self._check_usable()
        return self._drive(steps, ends)

    def tokenize(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens of a conversation by the server's chat template, as vLLM's ``/tokenize`` answers."""
        members: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": list(tools) if tools else None,
            "chat_template_kwargs": dict(chat_template_kwargs) if chat_template_kwargs else None,
        }
        answer = self._exchange("/tokenize", {name: value for name, value in members.items() if value is not None})
        return _answered(answer, "tokens", list)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Their text, as vLLM's ``/detokenize`` answers (``prompt``), or SGLang's (``text``)."""
        members = {"tokens": [int(token) for token in token_ids]}
        answer = self._exchange("/detokenize", members if self.model is None else {"model": self.model, **members})
        return _answered(answer, "text" if isinstance(answer, dict) and "text" in answer else "prompt", str)

    def _exchange(self, path: str, members: Mapping[str, Any]) -> Any:
        ends = _ends(self._allowed(None))
        self._check_usable()
        return self._drive(self._caller.exchange(path, members, deadline=ends), ends)

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

    def _call(self, begin: Callable[[float | None], Steps[T]], deadline: float | None) -> T:
        ends = _ends(self._allowed(deadline))
        self._check_usable()
        return self._drive(begin(ends), ends)

    def _drive(self, steps: Steps[T], ends: float | None) -> T:
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
                    answer = self._perform(step, ends)
                except TitoError as error:
                    failure = error  # for the steps to judge

    def _perform(self, step: object, ends: float | None) -> object:
        match step:
            case Send():
                return self._send(step, ends)
            case Read():
                return step.reading(step.content)
            case Sleep():
                time.sleep(step.seconds)
                return None
            case Alone():
                with _held(self._alone, ends):
                    return self._drive(step.steps(), ends)
            case _:
                raise TypeError(f"no step: {step!r}")

    def _send(self, step: Send, ends: float | None) -> object:
        own = _ends(step.timeout)
        ends = own if ends is None else ends if own is None else min(own, ends)
        exchange = Exchange(step.request, step.into_body, ends, expected=step.expected)
        with _held(self._slots, ends):
            try:
                with exchange:
                    return self._transport.send(exchange)
            except TransportError:
                if ends is None or time.monotonic() < ends:
                    raise
        raise _late(exchange)


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


class _Watch:
    """The exchange that a call is at, to say how far it got."""

    __slots__ = ("exchange",)

    def __init__(self) -> None:
        self.exchange: Exchange | None = None


class _limited:  # noqa: N801 - reads as the statement it is used in
    """``asyncio.timeout`` that raises our error."""

    __slots__ = ("_timeout", "_watch")

    def __init__(self, seconds: float | None, watch: _Watch) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._watch = watch

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            late = _late(self._watch.exchange)
        else:
            return
        try:
            raise late from None
        finally:
            del late  # else this frame holds the error that holds this frame


@contextlib.contextmanager
def _held(lock: threading.Lock | threading.Semaphore, ends: float | None) -> Iterator[None]:
    """``with lock``, but not beyond the deadline."""
    wait = -1 if ends is None else max(ends - time.monotonic(), 0.0)
    acquired = lock.acquire() if ends is None else lock.acquire(timeout=wait)
    if not acquired:
        raise _late(None)
    try:
        yield
    finally:
        lock.release()


def _answered(answer: Any, name: str, kind: type[T]) -> T:
    """A member of an answer, of the type that it must have."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise MissingFieldError(f"the answer holds no {name}", kind="missing", path=name)
    return value


def _late(exchange: Exchange | None) -> TransportError:
    phase = "connect" if exchange is None else exchange.phase
    doing = {
        "connect": "waiting for a connection",
        "send": "sending the request",
        "headers": "waiting for the answer",
        "body": "reading the answer",
    }[phase]
    return TransportError(f"the deadline passed while {doing}", phase=phase)


def _ends(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _seconds(name: str, value: float | None) -> float | None:
    if value is None or value == math.inf:
        return None
    if not value > 0:
        raise ValueError(f"{name} must be a positive number of seconds, or None")
    return float(value)


def _ceilings(limits: Limits | None, max_response_bytes: int | None) -> Limits:
    if max_response_bytes is None:
        limits = Limits() if limits is None else limits
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits, not {type(limits).__name__}")
        return limits
    if limits is not None:
        raise ValueError("max_response_bytes is one of limits: give one of the two")
    return Limits(max_response_bytes=max_response_bytes, max_decompressed_bytes=max_response_bytes)


def _free_descriptors() -> int:
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return MAX_CONCURRENCY
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONCURRENCY**2 if soft == resource.RLIM_INFINITY else max(soft - _SPARE_DESCRIPTORS, 1)
