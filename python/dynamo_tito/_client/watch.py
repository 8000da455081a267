"""Notes the steps of a call for an observer, where there is one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from dynamo_tito import _observe
from dynamo_tito._errors import DecodeError, TitoError, TransportError
from dynamo_tito._observe import Target

if TYPE_CHECKING:
    from dynamo_tito._native import CallRecord
    from dynamo_tito._observe import Operation
    from dynamo_tito._requests import Request
    from dynamo_tito._types import LogprobArray

    from .caller import Caller


def begins(caller: Caller, operation: Operation, request: Request) -> CallRecord | None:
    """What notes a call that begins; None where nobody is told of it."""
    observer = _observe.observer
    if observer is None:
        return None
    if caller.observer is not observer:
        # In this order: another thread must not take the last observer's starts for this one's.
        caller.starts, caller.observer = {"generate": {}, "score": {}}, observer
    known, transport = caller.starts[operation], request.spec.transport
    begin = known.get(transport)
    if begin is None:
        begin = known[transport] = observer.kind(_target(caller, operation, request)).begin
    return begin(len(request.call.prompt))


def broke_off(record: CallRecord, error: BaseException, deadline: float | None) -> None:
    """The call ended in an error, or was left, which is a GeneratorExit."""
    if isinstance(error, GeneratorExit):
        late = deadline is not None and time.monotonic() >= deadline
        record.failed(TransportError.__name__ if late else "cancelled", record.sent)
        return
    if record.decoding and isinstance(error, TitoError):
        record.refused(error.kind if isinstance(error, DecodeError) else type(error).__name__)
    record.failed(type(error).__name__, isinstance(error, TransportError) and error.phase != "connect")


def missing_in(logprobs: LogprobArray | None) -> int:
    """Tokens of which the server said that it has no log-probability."""
    return 0 if logprobs is None else int(np.count_nonzero(np.isnan(logprobs)))


def _target(caller: Caller, operation: Operation, request: Request) -> Target:
    spec, parts = request.spec, urlsplit(caller.endpoint.root)
    provider = spec.transport.partition("_")[0]
    return Target(operation, provider, spec.wire, caller.model, parts.hostname or "", parts.port)
