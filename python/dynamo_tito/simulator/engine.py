"""The embedded engine: its life, its listeners, and the faults of a request."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from .admin import Admin
from .admin_faults import ADMIN_FAULTS
from .app import App
from .calls import SAMPLING_PATHS, Call, EngineError, Record
from .config import EngineConfig
from .contents import EDITS, edited
from .core import Core
from .faults import Fault, FaultKind
from .http import Answer, Listener, Request, Step, in_thread
from .response import Response, answer_of, on_accept
from .wires import apps_of

__all__ = ["Engine", "running", "serve"]


class _EngineListener(Listener):
    """One listener of an engine."""

    def __init__(self, engine: Engine, name: str, app: App) -> None:
        super().__init__()
        self._engine, self._name, self._app = engine, name, app

    def accepted(self) -> Iterable[Step]:
        return on_accept(self._engine.faults.on_accept())

    async def answer(self, request: Request) -> Answer:
        response = await self._engine.respond(self._name, self._app, request)
        if self._engine.config.gzip and response.body and "gzip" in request.headers.get("accept-encoding", ""):
            response.body = gzip.compress(response.body, compresslevel=1)
            response.headers["content-encoding"] = "gzip"
        return answer_of(response, keep_alive=request.headers.get("connection", "").lower() != "close")


class Engine(Core):
    """An inference server without a model: `async with Engine(EngineConfig(...)) as engine`.

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(self, config: EngineConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._listeners: list[Listener] = []
        self._ending: asyncio.Task[None] | None = None

    # --- life ---

    async def start(self) -> None:
        """Listen. `url`, `rl_url` and `system_url` are known afterwards."""
        self.loop = asyncio.get_running_loop()
        apps = apps_of(self)
        urls: dict[str, str] = {}
        for name, app in apps.items():
            listener = _EngineListener(self, name, app)
            urls[name] = await listener.start(self.config.host, self.config.port if name == "main" else 0)
            self._listeners.append(listener)
        self.url = urls["main"]
        self.rl_url, self.system_url = urls.get("rl", self.url), urls.get("system", self.url)
        self.stopped = False

    async def stop(self) -> None:
        """Stop listening and drop every connection. The records stay."""
        self.stopped = True
        self.admin.resume()
        await asyncio.gather(*(listener.stop() for listener in self._listeners))
        self._listeners.clear()

    def restart(self) -> None:
        """Act as a new process at the same address: another identity, nothing paused, the first weights."""
        self._lives += 1
        self.instance_id = self._identity()
        self.admin = Admin(self.wake)
        for listener in self._listeners:
            listener.drop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- requests ---

    async def respond(self, listener: str, app: App, request: Request) -> Response:
        """Record a request and answer it."""
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
        )
        record.asked_stream = samples and _asks_for_a_stream(request)
        record.fault = self.faults.on_request(request.path, samples=samples, streams=record.asked_stream)
        self._records.append(record)
        call = Call(request, record, record.fault)
        try:
            response = await self._answer(app, call)
        except asyncio.CancelledError:
            record.disconnected = True
            record.outcome = "broken" if self.stopped else "cancelled"
            raise
        app.finish(call, response)
        record.status = response.status
        response.fault = record.fault
        ended = response.on_over

        def on_over(count: int, left: bool) -> None:  # noqa: FBT001 - as `Answer.on_over` says
            if ended is not None:
                ended(count, left)
            if response.stream is None:
                record.sent = count
                record.complete = count == len(response.body)
            record.disconnected = not record.complete
            finished = record.complete and not record.failed
            record.outcome = "finished" if finished else "cancelled" if left else "broken"

        response.on_over = on_over
        return response

    async def _answer(self, app: App, call: Call) -> Response:
        fault = call.fault
        try:
            if fault is not None and fault.when == "request":
                if fault.kind == "reset":
                    return Response(200)  # reset before its first byte
                if fault.kind == "error_body":
                    return self._error_body(Response(200), app, call, fault)
                await self._fail_early(fault, app)
            before = self.admin.state()
            response = await app.handle(call)
            if fault is not None and fault.when == "sampled":
                try:
                    await self._fail_late(fault)
                    response = self._untrue(call, response, before, fault)
                except BaseException:
                    response.drop()
                    raise
        except EngineError as error:
            return app.failure(call, error)
        if fault is not None and fault.kind == "error_body":
            response.drop()
            return self._error_body(response, app, call, fault)
        return response

    def _untrue(self, call: Call, response: Response, before: dict[str, Any], fault: Fault) -> Response:
        """The answer, changed where the fault makes it untrue."""
        if fault.kind in EDITS or fault.kind == "events":
            # The events of a stream are edited one by one.
            return response if response.stream is not None else edited(response, call, fault)
        if fault.kind in ADMIN_FAULTS:
            return ADMIN_FAULTS[fault.kind].play(self, before, response, fault)
        return response

    @staticmethod
    def _error_body(response: Response, app: App, call: Call, fault: Fault) -> Response:
        body = fault.body if fault.body is not None else app.failure(call, EngineError(500, fault.message or "")).body
        return replace(response, status=200, body=body, stream=None, content_type="application/json")

    async def _vanish(self, kind: FaultKind) -> None:
        """Die or restart; either drops the connection of this request."""
        if kind == "die":
            self._ending = asyncio.get_running_loop().create_task(self.stop())
        else:
            self.restart()
        await asyncio.Event().wait()

    async def _fail_early(self, fault: Fault, app: App) -> None:
        match fault.kind:
            case "status":
                raise EngineError(fault.status, fault.message or "", kind="worker", headers=dict(fault.headers))
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
            raise EngineError(fault.status, fault.message or "", kind="worker", headers=dict(fault.headers))
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0.0)
        if fault.kind in ("die", "restart"):
            await self._vanish(fault.kind)


def _asks_for_a_stream(request: Request) -> bool:
    if b'"stream"' not in request.body:
        return False
    try:
        document = request.json()
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("stream") is True


def serve(config: EngineConfig | None = None, /, **settings: Any) -> Engine:
    """An engine for `async with`: `async with simulator.serve(backend="vllm") as engine: engine.url`."""
    return Engine(config, **settings)


@contextmanager
def running(config: EngineConfig | None = None, /, **settings: Any) -> Iterator[Engine]:
    """An engine on an event loop in a thread: `with simulator.running(backend="vllm") as engine: engine.url`.

    In a coroutine it blocks the caller's loop for some milliseconds at both ends; :func:`serve` does not.
    """
    engine = Engine(config, **settings)
    with in_thread("tito-engine") as run:
        run(engine.start())
        try:
            yield engine
        finally:
            run(engine.stop())
