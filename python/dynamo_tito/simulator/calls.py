"""One request on its way through the embedded engine, and the record of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .faults import Fault
from .http import Request
from .model import Sample

__all__ = ["SAMPLING_PATHS", "Ask", "Call", "EngineError", "Record"]

#: Where a POST makes the engine sample.
SAMPLING_PATHS = frozenset(
    ("/v1/chat/completions", "/v1/chat/completions/tokens", "/v1/completions", "/inference/v1/generate", "/generate")
)


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
    """What a request asks of the engine, without the wire it came over."""

    prompt_ids: Sequence[int]
    max_tokens: int | None
    n: int = 1
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    #: Texts that end the answer.
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    #: A token that is sampled at every position.
    forced: int | None = None


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
