"""One request to the embedded engine, and its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .faults import Fault
from .http import Request
from .model import Sample

__all__ = ["SAMPLING_PATHS", "Ask", "Call", "EngineError", "Outcome", "Record"]

#: Where a POST makes the engine sample.
SAMPLING_PATHS = frozenset(
    ("/v1/chat/completions", "/v1/chat/completions/tokens", "/v1/completions", "/inference/v1/generate", "/generate")
)

Outcome: TypeAlias = Literal["finished", "cancelled", "broken"]


class EngineError(Exception):
    """The engine refuses or fails a request. Each wire puts it into its own envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "engine",
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.headers = status, message, kind, headers or {}
        #: The field of the request that is at fault, where the server names it.
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the engine, whatever its wire."""

    prompt_ids: Sequence[int]
    max_tokens: int | None
    n: int = 1
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    #: Texts that end the answer.
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    #: Tokens of a chunk of the stream behind the first one, which has one token; None: as the engine is configured.
    stream_interval: int | None = None
    #: A token that is sampled at every position.
    forced: int | None = None


@dataclass(slots=True)
class Record:
    """One request that reached the engine, and its outcome."""

    number: int
    listener: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    received: float
    fault: Fault | None = None
    status: int | None = None
    #: What the engine sampled, one entry per choice; empty if the request was answered without sampling. While it is
    #: being streamed, and where it was left: up to here, with the finish reason abort.
    samples: list[Sample] = field(default_factory=list, repr=False)
    #: Body bytes that were written to the connection.
    sent: int = 0
    #: The client left before the answer was out.
    disconnected: bool = False
    #: How it ended: all of it was sent; the client left before; or the server broke it off, or said that it failed.
    #: None: it is under way.
    outcome: Outcome | None = None
    #: The request asked for a stream.
    asked_stream: bool = False
    #: Of a stream: the tokens of each choice, and the events, that were handed to the connection whole.
    tokens_sent: list[int] = field(default_factory=list)
    events_sent: int = 0
    #: Of a stream: the last event, and an error, were sent.
    complete: bool = False
    failed: bool = False

    def json(self) -> Any:
        """The request's body."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """Identifies a call: its request id, else a digest of its body."""
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
    """A request in the handler of its wire."""

    request: Request
    record: Record
    fault: Fault | None

    def fault_of(self, kind: str) -> Fault | None:
        """This call's fault, if it is of that kind."""
        return self.fault if self.fault is not None and self.fault.kind == kind else None

    def streams(self, document: dict[str, Any]) -> bool:
        """Whether the answer is a stream."""
        return bool(document.get("stream")) and self.fault_of("unary") is None
