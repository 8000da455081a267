"""Rollouts and teacher scores on a Ray cluster (extra ``dynamo-tito[ray]``).

The servers are discovered once, by the driver; what it found travels to every process as a :class:`FleetView`.

>>> view = asyncio.run(discover("http://frontend:8000", backend="dynamo", model="m"))  # doctest: +SKIP
>>> with RolloutWorkers(view, count=8) as workers:  # doctest: +SKIP
...     for number, sample in workers.map(roll, tasks, in_flight=256):
...         ...

A ``Completion``, ``TrainingSample`` or ``PromptLogprobs`` that a process returns goes through Ray's object store with
its arrays out of band (pickle protocol 5). ``ray.get`` copies none of them: they are read-only views of the store, and
keep its memory as long as they live.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import ray

from dynamo_tito._client import AsyncTitoClient, connect
from dynamo_tito._errors import AdminError, TitoError
from dynamo_tito.control import Worker, discover_workers, make_admin

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from dynamo_tito._client import ClientOptions
    from dynamo_tito._config import Backend
    from dynamo_tito._types import PromptLogprobs

__all__ = ["FleetView", "RolloutWorkers", "TeacherScores", "discover"]

T = TypeVar("T")
R = TypeVar("R")

Work: TypeAlias = Callable[[AsyncTitoClient, T], Awaitable[R]]
"""What is done with one task; it is pickled, so a function of a module that the workers have is best."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """The servers of one policy, as the driver found them: all that another process needs to call them.

    Attributes:
        base_urls: the servers that sample. Processes take turns at them.
        backend: whose servers they are.
        model: the model that is asked for.
        workers: what Dynamo's discovery listed; empty for other backends.
        options: keywords of every client; see :class:`dynamo_tito.ClientOptions`. A key in them is pickled with them.
    """

    base_urls: tuple[str, ...]
    backend: Backend
    model: str | None
    workers: tuple[Worker, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def connect(self, number: int = 0) -> AsyncTitoClient:
        """A client of the server whose turn ``number`` is; asks no discovery."""
        url = self.base_urls[number % len(self.base_urls)]
        return connect(url, backend=self.backend, model=self.model, **self.options)

    def with_model(self, model: str) -> FleetView:
        """The same servers, asked for another model, such as an adapter that was loaded."""
        return dataclasses.replace(self, model=model)


async def discover(
    base_url: str | Sequence[str],
    *,
    backend: Backend,
    model: str | None,
    rl_base_url: str | Sequence[str] | None = None,
    **options: Unpack[ClientOptions],
) -> FleetView:
    """Ask once who is there.

    Args:
        base_url: the servers: Dynamo's frontends, or vLLM's and SGLang's servers themselves.
        backend: as of :func:`dynamo_tito.connect`.
        model: the model's name. Every server must list it; None where the servers need none.
        rl_base_url: where Dynamo's discovery listens; see :class:`dynamo_tito.control.Workers`.
        **options: keywords of every client.

    Raises:
        AdminError: discovery lists no worker or a broken one, or a server does not list the model.
        ServerError, TransportError: a server could not be asked.
    """
    urls = (base_url,) if isinstance(base_url, str) else tuple(base_url)
    reach: dict[str, Any] = {
        name: options[name] for name in ("api_key", "headers", "tls", "trust_env", "connect_timeout") if name in options
    }
    found: tuple[Worker, ...] = ()
    if backend == "dynamo":
        async with await discover_workers(urls, rl_base_url=rl_base_url, model=model, **reach) as workers:
            await workers.check_model()
            found = tuple(workers)
    else:
        await asyncio.gather(*(_check_model(url, backend, model, reach) for url in urls))
    return FleetView(urls, backend, model, found, dict(options))


class RolloutWorkers:
    """Processes of a Ray cluster that run conversations, each with one client and many in flight.

    Args:
        view: the servers; see :func:`discover`.
        count: how many processes.
        **resources: options of the actors, such as ``num_cpus``, ``scheduling_strategy`` or ``max_restarts``.

    Raises:
        ValueError: ``count`` is below 1.
    """

    def __init__(self, view: FleetView, *, count: int, **resources: Any) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")
        # The number of calls is bounded by `map`, beside which only `use` is called.
        kind = ray.remote(max_concurrency=_MAX_CALLS, **resources)(_RolloutWorker)
        self._actors = [kind.remote(view, number) for number in range(count)]

    def map(self, work: Work[T, R], tasks: Iterable[T], *, in_flight: int = 256) -> Iterator[tuple[int, R | TitoError]]:
        """Do the work for each task, up to ``in_flight`` at once in each process.

        Tasks are taken from the iterable as there is room. A task whose work raises a :class:`TitoError` has it as its
        result, and the others go on. Another exception ends the iteration; so does the death of a process.

        Args:
            work: a coroutine function of a client and a task.
            tasks: what it is called with.
            in_flight: tasks under way in each process.

        Yields:
            The number of the task, from 0, and its result, in the order in which they end.

        Raises:
            ValueError: ``in_flight`` is not in 1 to 8192.
        """
        if not 1 <= in_flight <= _MAX_CALLS - 1:
            raise ValueError(f"in_flight must be in 1 to {_MAX_CALLS - 1}")
        function = ray.put(work)
        numbered = enumerate(tasks)
        pending: dict[Any, tuple[int, Any]] = {}

        def fill(actor: Any, room: int) -> None:
            for number, task in itertools.islice(numbered, room):
                pending[actor.run.remote(function, task)] = number, actor

        try:
            for _ in range(in_flight):
                for actor in self._actors:
                    fill(actor, 1)
            while pending:
                first, _ = ray.wait([*pending], num_returns=1)
                more, _ = ray.wait([*pending], num_returns=len(pending), timeout=0)
                for reference in {*first, *more}:
                    number, actor = pending.pop(reference)
                    fill(actor, 1)
                    yield number, ray.get(reference)
        finally:
            for reference in pending:
                ray.cancel(reference)

    def use(self, view: FleetView) -> None:
        """Take other servers, or another model, for tasks that begin from now on."""
        ray.get([actor.use.remote(view) for actor in self._actors])

    def close(self) -> None:
        """End the processes; what they do is dropped."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class TeacherScores:
    """Scores the sequences of a data set with a teacher; a class for ``Dataset.map_batches``.

    Example::

        scored = dataset.map_batches(
            TeacherScores,
            fn_constructor_kwargs={"view": view, "column": "token_ids", "start": "prompt_len"},
            batch_format="pyarrow",
            batch_size=1024,
            compute=ray.data.ActorPoolStrategy(size=8),
        )

    To each batch it adds two columns: ``output``, a list of float64 for each token of the sequence (natural logarithms,
    NaN before ``start`` and at position 0), null where the sequence could not be scored, and ``{output}_error``, why,
    null where it could.

    Args:
        view: the teacher's servers; see :func:`discover`.
        column: the token ids: lists of integers.
        start: the first position that is scored: a number for all, or the name of a column of integers.
        output: the name of the new column.
        concurrency: sequences in flight in each process.
        **options: keywords of :meth:`dynamo_tito.AsyncTitoClient.score_many`, such as ``temperature``.
    """

    def __init__(
        self,
        view: FleetView,
        *,
        column: str = "token_ids",
        start: int | str = 0,
        output: str = "teacher_logprobs",
        concurrency: int = 32,
        **options: Any,
    ) -> None:
        self._column, self._start, self._output, self._options = column, start, output, options
        # The batches that Ray Data gives at once share what may be in flight: the first of them first.
        self._in_flight = asyncio.Semaphore(concurrency)
        # Each process of a pool makes one of these, and they take turns at the servers.
        self._client = view.connect(_turn())
        # Ray's event loop stands still while results wait for their consumer; on one of their own the calls go on.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="tito-scores", daemon=True).start()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Score one batch.

        Raises:
            TypeError, ValueError: the column holds no lists of token ids; nothing of the batch was sent.
        """
        sequences = _sequences(batch.column(self._column))
        start = self._start if isinstance(self._start, int) else batch.column(self._start).to_pylist()
        scoring = self._client.score_many(sequences, start=start, concurrency=self._in_flight, **self._options)
        scored = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(scoring, self._loop))
        return batch.append_column(self._output, _logprobs(scored)).append_column(
            f"{self._output}_error",
            pa.array([str(each) if isinstance(each, TitoError) else None for each in scored], pa.string()),
        )


_MAX_CALLS = 8193


class _RolloutWorker:
    """One process: a client for each view, on the event loop of an asynchronous actor."""

    def __init__(self, view: FleetView, number: int) -> None:
        self._number = number
        self._client = _Shared(view.connect(number))

    async def run(self, work: Work[Any, Any], task: Any) -> Any:
        async with self._client.used() as client:
            try:
                return await work(client, task)
            except TitoError as error:
                return error.with_traceback(None)

    async def use(self, view: FleetView) -> None:
        before, self._client = self._client, _Shared(view.connect(self._number))
        await before.retire()


class _Shared:
    """A client that is closed when its last task has ended."""

    def __init__(self, client: AsyncTitoClient) -> None:
        self._client = client
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def used(self) -> Any:
        self._users += 1
        try:
            yield self._client
        finally:
            self._users -= 1
            await self._close()

    async def retire(self) -> None:
        self._retired = True
        await self._close()

    async def _close(self) -> None:
        if self._retired and not self._users:
            await self._client.aclose()


def _turn() -> int:
    """A number that differs between the processes of a pool."""
    return int(ray.get_runtime_context().get_worker_id()[:8], 16)


async def _check_model(url: str, backend: Backend, model: str | None, reach: Mapping[str, Any]) -> None:
    admin = await make_admin(url, backend, **reach)
    try:
        listed = await admin.models()
    finally:
        await admin.aclose()
    if model is not None and model not in listed:
        raise AdminError(f"{admin.url}/v1/models lists {', '.join(listed) or 'nothing'}, not {model!r}")


def _sequences(column: pa.ChunkedArray) -> list[np.ndarray[Any, Any]]:
    """The lists as views of the column's memory.

    Raises:
        TypeError: it holds no lists of integers.
        ValueError: a null.
    """
    found: list[np.ndarray[Any, Any]] = []
    for chunk in column.chunks:
        if not (pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type)) or not pa.types.is_integer(
            chunk.type.value_type
        ):
            raise TypeError(f"token ids must be lists of integers, not {chunk.type}")
        if chunk.null_count or chunk.values.null_count:
            raise ValueError("token ids must not be null")
        values, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        found += [values[first:last] for first, last in itertools.pairwise(offsets.tolist())]
    return found


def _logprobs(scored: Sequence[PromptLogprobs | TitoError]) -> pa.Array:
    lengths = [0 if isinstance(each, TitoError) else len(each.logprobs) for each in scored]
    values = [each.logprobs for each in scored if not isinstance(each, TitoError)]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    failed = np.fromiter((isinstance(each, TitoError) for each in scored), np.bool_, len(scored))
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()),
        pa.array(np.concatenate(values) if values else np.empty(0), from_pandas=False),
        mask=pa.array(failed),
    )
