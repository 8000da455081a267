"""One request on its way through the embedded engine, and what every wire's server has in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import UUID

from .encode import dumps
from .faults import Fault
from .http import Framing, Request, Response
from .model import Sample

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["SAMPLING_PATHS", "App", "Ask", "Call", "EngineError", "Record", "Route"]

#: Where a POST makes the engine sample.
SAMPLING_PATHS = frozenset(
    ("/v1/chat/completions", "/v1/chat/completions/tokens", "/v1/completions", "/inference/v1/generate", "/generate")
)


class EngineError(Exception):
    """The engine refuses or fails a request. Each wire puts it into its own envelope."""

    def __init__(
        self, status: int, message: str, *, kind: str = "engine", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.headers = status, message, kind, headers or {}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks of the engine, without the wire it came over."""

    prompt_ids: Sequence[int]
    max_tokens: int | None
    n: int = 1
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    min_tokens: int = 0


@dataclass(slots=True)
class Record:
    """One request that reached the engine, and what became of it."""

    number: int
    listener: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    received: float
    fault: Fault | None = None
    status: int | None = None
    #: What the engine sampled, one entry per choice; empty if the request was answered without sampling.
    samples: list[Sample] = field(default_factory=list, repr=False)
    #: Body bytes that were handed to the connection.
    sent: int = 0
    #: The client left before the answer was out.
    disconnected: bool = False

    def json(self) -> Any:
        """The request's body."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """What tells one call from another: its request id, else a digest of its body."""
        header = self.headers.get("x-request-id")
        if header:
            return header
        try:
            document = self.json()
            named = document.get("request_id") or document.get("rid")
        except (ValueError, AttributeError):
            named = None
        return named if isinstance(named, str) else hashlib.sha256(self.body).hexdigest()


@dataclass(slots=True)
class Call:
    """A request on its way through a wire's handler."""

    request: Request
    record: Record
    fault: Fault | None
    #: The weight version that was in force when the engine sampled.
    version: str = ""

    def fault_of(self, kind: str) -> Fault | None:
        """This call's fault, if it is of that kind."""
        return self.fault if self.fault is not None and self.fault.kind == kind else None


Route: TypeAlias = Callable[[Call], Awaitable[Response]]


class App:
    """The routes of one listener, and the envelope of its errors."""

    framing: ClassVar[Framing] = "length"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._routes: dict[str, dict[str, Route]] = {}
        self.add_routes()

    def add_routes(self) -> None:
        """Called once: `self.route("POST", path, handler)` for each."""
        raise NotImplementedError

    def failure(self, call: Call, error: EngineError) -> Response:
        """The engine's refusal in this server's envelope."""
        raise NotImplementedError

    def no_route(self, call: Call) -> Response:
        """The answer for a path that this server does not have."""
        return self.failure(call, EngineError(404, "Not Found"))

    def wrong_method(self, allowed: Sequence[str]) -> Response:
        """The answer for a method that the path does not take."""
        return Response(405, b"", None, {"allow": ",".join(allowed)}, self.framing)

    def finish(self, call: Call, response: Response) -> None:
        """Add what every answer of this server carries, errors too."""

    @property
    def not_ready(self) -> str:
        """What the server says when it has not sampled and the request may come again."""
        return "Service is not ready"

    def route(self, methods: str, path: str, handler: Route) -> None:
        """Answer `methods` (one, or several with spaces between) on `path`."""
        for method in methods.split():
            self._routes.setdefault(path, {})[method] = handler

    def find(self, path: str) -> dict[str, Route] | None:
        """The handlers of a path, by method."""
        return self._routes.get(path)

    async def handle(self, call: Call) -> Response:
        """Answer a request."""
        found = self.find(call.request.path)
        if found is None:
            return self.no_route(call)
        handler = found.get(call.request.method)
        return await handler(call) if handler is not None else self.wrong_method(sorted(found))

    def reply(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """A JSON answer."""
        return Response(status, dumps(value), headers=dict(headers or {}), framing=self.framing)

    def uuid(self, call: Call) -> str:
        """An id for an answer: the same in every run."""
        digest = hashlib.blake2b(f"{self.engine.config.seed}:{call.record.number}".encode(), digest_size=16).digest()
        return str(UUID(bytes=digest, version=4))
