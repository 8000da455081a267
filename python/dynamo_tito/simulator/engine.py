"""The embedded engine: what it is told, what it remembers, and the sampling that every wire shares."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from .admin import Admin, PauseMode
from .calls import SAMPLING_PATHS, App, Ask, Call, EngineError, Record
from .config import EngineConfig
from .faults import Fault, FaultKind, FaultPlan
from .http import Listener, Request, Response
from .model import Model, Sample
from .tokenizer import Tokenizer
from .wires import apps_of

__all__ = ["Engine", "running", "serve"]

# From this many routed-expert entries on, sampling leaves the event loop.
LARGE = 1 << 20


class Engine:
    """An inference server without a model: `async with Engine(EngineConfig(...)) as engine`.

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(self, config: EngineConfig | None = None, /, **settings: Any) -> None:
        self.config = replace(config or EngineConfig(), **settings)
        c = self.config
        self.model = Model(
            seed=c.seed,
            vocab_size=c.vocab_size,
            num_layers=c.num_layers,
            top_k=c.top_k,
            num_experts=c.num_experts,
            eos_rate=c.eos_rate,
        )
        self.tokenizer = Tokenizer(c.vocab_size)
        self.admin = Admin()
        self.faults = FaultPlan(seed=c.seed, rate=c.fault_rate, random_faults=c.random_faults)
        #: Base URL of the routes that a client talks to, without `/v1`.
        self.url = ""
        #: Dynamo's discovery listener and this worker's system server; the main listener on other backends.
        self.rl_url = self.system_url = ""
        #: The workers that discovery lists.
        self.members: list[Engine] = [self]
        self.stopped = False
        self.total_requests = self.total_sampled = 0
        self._records: deque[Record] = deque(maxlen=c.keep_records)
        self._numbers = 0
        self._listeners: list[Listener] = []
        self._flights: dict[int, tuple[Record, asyncio.Event]] = {}
        self._lives = 0
        self._ending: asyncio.Task[None] | None = None
        self.instance_id = self._identity()

    # --- life ---

    async def start(self) -> None:
        """Listen. `url`, `rl_url` and `system_url` are known afterwards."""
        apps = apps_of(self)
        urls = {}
        for name, app in apps.items():
            listener = Listener(self._handler(name, app), on_accept=self.faults.on_accept, compress=self.config.gzip)
            urls[name] = await listener.start(self.config.host, self.config.port if name == "main" else 0)
            self._listeners.append(listener)
        self.url = urls["main"]
        self.rl_url, self.system_url = urls.get("rl", self.url), urls.get("system", self.url)
        self.stopped = False

    async def stop(self) -> None:
        """Stop listening and drop every connection. What was recorded stays."""
        self.stopped = True
        self.admin.resume()
        await asyncio.gather(*(listener.stop() for listener in self._listeners))
        self._listeners.clear()

    def restart(self) -> None:
        """Be a new process at the same address: another identity, nothing paused, the weights it was started with."""
        self._lives += 1
        self.instance_id = self._identity()
        self.admin = Admin()
        for listener in self._listeners:
            listener.drop()

    def _identity(self) -> int:
        digest = hashlib.blake2b(f"{self.config.seed}:{id(self)}:{self._lives}".encode(), digest_size=8).digest()
        # Above 2**53: a client that reads it as a float gets another number.
        return int.from_bytes(digest, "little") | 1 << 63

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- what it remembers ---

    @property
    def calls(self) -> list[Record]:
        """Every request, oldest first."""
        return list(self._records)

    @property
    def requests(self) -> list[Record]:
        """The requests on routes that sample, oldest first."""
        return [record for record in self._records if record.path in SAMPLING_PATHS]

    @property
    def last(self) -> Record:
        """The newest request on a route that samples."""
        return self.requests[-1]

    def hits(self) -> Counter[str]:
        """How often each call (`Record.key`) arrived on a route that samples."""
        return Counter(record.key for record in self.requests)

    def sampled(self) -> Counter[str]:
        """How often the engine sampled for each call (`Record.key`)."""
        return Counter(record.key for record in self.requests if record.samples)

    def forget(self) -> None:
        """Start a new record; totals go on."""
        self._records.clear()

    def inject(self, *faults: Fault) -> None:
        """Script faults: each happens once, in this order, to the first request that it fits. Safe from any thread."""
        self.faults.script(*faults)

    def join(self, *others: Engine) -> None:
        """Let discovery list other engines too."""
        self.members.extend(others)

    # --- requests ---

    def _handler(self, listener: str, app: App) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            samples = request.method == "POST" and request.path in SAMPLING_PATHS
            self._numbers += 1
            self.total_requests += 1
            record = Record(
                number=self._numbers,
                listener=listener,
                method=request.method,
                path=request.path,
                headers=request.headers,
                body=request.body,
                received=time.monotonic(),
                fault=self.faults.on_request(request.path, samples=samples),
            )
            self._records.append(record)
            call = Call(request, record, record.fault)
            try:
                response = await self._answer(app, call)
            except asyncio.CancelledError:
                record.disconnected = True
                raise
            app.finish(call, response)
            record.status = response.status
            response.fault = record.fault

            def on_sent(count: int) -> None:
                record.sent = count
                record.disconnected = count < len(response.body)

            response.on_sent = on_sent
            return response

        return handle

    async def _answer(self, app: App, call: Call) -> Response:
        fault = call.fault
        try:
            if fault is not None and fault.when == "request":
                if fault.kind == "reset":
                    return Response(200)  # which the connection never gets to send
                if fault.kind == "error_body":
                    return self._error_body(Response(200), app, call, fault)
                await self._fail_early(fault, app)
            response = await app.handle(call)
            if fault is not None and fault.when == "sampled":
                await self._fail_late(fault)
        except EngineError as error:
            return app.failure(call, error)
        if fault is not None and fault.kind == "error_body":
            return self._error_body(response, app, call, fault)
        return response

    @staticmethod
    def _error_body(response: Response, app: App, call: Call, fault: Fault) -> Response:
        body = fault.body if fault.body is not None else app.failure(call, EngineError(500, fault.message or "")).body
        return replace(response, status=200, body=body)

    async def _vanish(self, kind: FaultKind) -> None:
        """Die or restart; either takes the connection of this request along."""
        if kind == "die":
            self._ending = asyncio.get_running_loop().create_task(self.stop())
        else:
            self.restart()
        await asyncio.Event().wait()

    async def _fail_early(self, fault: Fault, app: App) -> None:
        match fault.kind:
            case "status":
                raise EngineError(fault.status, fault.message or "", headers=dict(fault.headers))
            case "not_ready":
                raise EngineError(503, fault.message or app.not_ready, kind="not_ready", headers=dict(fault.headers))
            case "delay":
                await asyncio.sleep(fault.seconds or 0.0)
            case "stall":
                await (asyncio.sleep(fault.seconds) if fault.seconds is not None else asyncio.Event().wait())
            case "die" | "restart":
                await self._vanish(fault.kind)
            case _:
                pass

    async def _fail_late(self, fault: Fault) -> None:
        if fault.kind == "status":
            raise EngineError(fault.status, fault.message or "", headers=dict(fault.headers))
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0.0)
        if fault.kind in ("die", "restart"):
            await self._vanish(fault.kind)

    # --- sampling ---

    async def sample(self, call: Call, ask: Ask) -> list[Sample]:
        """One sample per choice, recorded.

        Raises:
            EngineError: the prompt is longer than the context.
        """
        room = self.config.max_model_len - len(ask.prompt_ids)
        if room < 1:
            raise EngineError(
                400,
                f"Input length ({len(ask.prompt_ids)}) exceeds model's maximum context length "
                f"({self.config.max_model_len}).",
                kind="overlong",
            )
        await self.admin.admitted()
        aborted = asyncio.Event()
        self._flights[call.record.number] = call.record, aborted
        self.admin.in_flight += 1
        try:
            count = min(room, self.config.default_max_tokens if ask.max_tokens is None else ask.max_tokens)
            started = time.monotonic()
            version, call.version = self.admin.weights, str(self.admin.version)
            entries = (len(ask.prompt_ids) + count) * ask.n * self.config.num_layers * self.config.top_k
            if entries > LARGE:
                samples = await asyncio.to_thread(self._sample, ask, count, version)
            else:
                samples = self._sample(ask, count, version)
            busy = self.config.latency + self.config.token_latency * max(len(sample.token_ids) for sample in samples)
            if busy:
                await _within(aborted.wait(), busy - (time.monotonic() - started))
            samples = [self._spoil(call, sample) for sample in samples]
            if aborted.is_set():
                share = min(1.0, (time.monotonic() - started) / busy) if busy else 1.0
                samples = [_cut(sample, int(share * len(sample.token_ids))) for sample in samples]
        finally:
            self.admin.landed()
            del self._flights[call.record.number]
        call.record.samples = samples
        self.total_sampled += 1
        return samples

    def _sample(self, ask: Ask, count: int, version: str) -> list[Sample]:
        prompt = np.asarray(ask.prompt_ids, dtype=np.int64)
        return [
            self.model.sample(
                prompt, count, version=version, index=index, request_seed=ask.seed, stop_token_ids=ask.stop_token_ids,
                ignore_eos=ask.ignore_eos, min_tokens=ask.min_tokens,
            )
            for index in range(ask.n)
        ]  # fmt: skip

    def _spoil(self, call: Call, sample: Sample) -> Sample:
        if (fault := call.fault_of("abort")) is not None:
            return _cut(sample, fault.position(len(sample.token_ids)))
        if (fault := call.fault_of("finish")) is not None:
            return replace(sample, finish_reason=fault.message or sample.finish_reason, stop_reason=fault.stop_reason)
        return sample

    async def rows(self, call: Call, sample: Sample, start: int) -> np.ndarray[Any, Any]:
        """Routed experts from position `start` on, as the engine hands them out (`wrong_rows` included)."""
        fault = call.fault_of("wrong_rows")
        extra = fault.by if fault is not None else 0
        entries = (len(sample.prompt_ids) + len(sample.token_ids) - start) * self.config.num_layers * self.config.top_k
        if entries > LARGE:
            return await asyncio.to_thread(sample.routing, start, extra_rows=extra)
        return sample.routing(start, extra_rows=extra)

    async def pause(self, mode: PauseMode) -> None:
        """Hold new requests; those being sampled go on (keep), are waited for (wait), or end where they are (abort)."""
        self.admin.pause(mode)
        if mode == "abort":
            self.abort()
        if mode != "keep":
            await self.admin.idle()

    def abort(self, key: str | None = None, *, prefix: bool = False) -> int:
        """Abort what is being sampled: all, or the calls with this key (or one that begins with it); how many."""
        count = 0
        for record, aborted in self._flights.values():
            if key is None or record.key == key or (prefix and record.key.startswith(key)):
                aborted.set()
                count += 1
        return count


async def _within(awaitable: Any, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        pass


def _cut(sample: Sample, count: int) -> Sample:
    """The sample as it stood after `count` tokens, aborted."""
    return sample.model.given(
        sample.prompt_ids, sample.token_ids[:count], version=sample.version, index=sample.index, finish_reason="abort"
    )


def serve(config: EngineConfig | None = None, /, **settings: Any) -> Engine:
    """An engine for `async with`: `async with simulator.serve(backend="vllm") as engine: engine.url`."""
    return Engine(config, **settings)


@contextmanager
def running(config: EngineConfig | None = None, /, **settings: Any) -> Iterator[Engine]:
    """An engine on a loop of its own in a thread: `with simulator.running(backend="vllm") as engine: engine.url`.

    In a coroutine it blocks the caller's loop for some milliseconds at both ends; :func:`serve` does not.
    """
    engine = Engine(config, **settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tito-engine", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(engine.start(), loop).result()
        try:
            yield engine
        finally:
            asyncio.run_coroutine_threadsafe(engine.stop(), loop).result()
    finally:
        # On its own loop: one that is closed from a coroutine cannot be run in this thread.
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
