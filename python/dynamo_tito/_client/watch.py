"""Sees the steps of a call pass: notes them for an observer, and keeps an answer that is refused."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from dynamo_tito import _observe
from dynamo_tito._errors import DecodeError, TitoError, TransportError
from dynamo_tito._http.base import HttpResponse
from dynamo_tito._observe import CallRecord, Sampled
from dynamo_tito._types import Completion, PromptLogprobs

from .steps import Pull, Send, Sleep, Work

if TYPE_CHECKING:
    from dynamo_tito._http.base import HttpRequest
    from dynamo_tito._native import Body
    from dynamo_tito._observe import Operation
    from dynamo_tito._requests import Request
    from dynamo_tito._types import LogprobArray

    from .caller import Caller
    from .refused import Keeper, Readable
    from .steps import Steps

T = TypeVar("T")


def watch(caller: Caller, operation: Operation, request: Request, reading: Callable[[], Readable]) -> Watch | None:
    """What watches one call; None where nobody is told of it and nothing is kept."""
    if _observe.observer is None and caller.keeper is None:
        return None
    return Watch(caller, operation, request, reading)


class Watch:
    """One call that is watched.

    Args:
        caller: the server.
        operation: what is asked.
        request: likewise.
        reading: how the answer is decoded, asked for where decoding failed.
    """

    def __init__(self, caller: Caller, operation: Operation, request: Request, reading: Callable[[], Readable]) -> None:
        address, port = _address(caller.endpoint.root)
        self._observer = _observe.observer
        self._answer = Answer(caller.keeper, reading)
        self._request = request
        self._ended_in = ""
        self._step: object = None
        self._record = CallRecord(
            operation,
            provider=request.spec.transport.partition("_")[0],
            wire=request.spec.wire,
            model=caller.model,
            address=address,
            port=port,
            prompt_tokens=request.call.prompt_len,
            streamed=request.call.stream,
        )

    def steps(self, inner: Steps[T], deadline: float | None) -> Steps[T]:
        """The same steps, watched."""
        record, observer = self._record, self._observer
        began = time.perf_counter()
        headers = {} if observer is None else observer.began(record)
        answer: Any = None
        failure: TitoError | None = None
        try:
            while True:
                try:
                    step = inner.send(answer) if failure is None else inner.throw(failure)
                except StopIteration as stop:
                    result: T = stop.value
                    record.sampled = self._in_numbers(result)
                    return result
                finally:
                    answer = failure = None
                if headers and isinstance(step, Send):
                    step = _with_headers(step, headers)
                self._step, since = step, time.perf_counter()
                try:
                    answer = yield step
                except TitoError as error:
                    failure = error
                self._step = None
                self._note(step, answer, failure, time.perf_counter() - since)
                if failure is not None and isinstance(step, Work):
                    yield from self._answer.refused(failure)
        except GeneratorExit:
            late = deadline is not None and time.monotonic() >= deadline
            record.error = TransportError.__name__ if late else "cancelled"
            if isinstance(self._step, Send):
                self._sent(self._step, "none")
            record.interrupted = bool(record.statuses)
            raise
        except BaseException as error:
            record.error = type(error).__name__
            record.interrupted = isinstance(error, TransportError) and error.phase != "connect"
            raise
        finally:
            inner.close()
            self._answer.forget()
            record.seconds = time.perf_counter() - began
            if observer is not None:
                observer.ended(record)

    def kept(self, completion: Completion) -> None:
        """Note what the caller gets of an interrupted call."""
        if self._observer is not None:
            self._record.sampled = self._in_numbers(completion)
            self._observer.kept(self._record)

    def _note(self, step: object, answer: Any, failure: TitoError | None, seconds: float) -> None:
        record = self._record
        match step:
            case Send():
                record.streamed = step.stream
                self._ended_in = type(failure).__name__
                if isinstance(answer, HttpResponse):
                    self._ended_in = str(answer.status)
                    record.received += len(answer.content)
                    self._sent(step, self._ended_in)
                elif not (isinstance(failure, TransportError) and failure.phase == "connect"):
                    self._sent(step, "none")
                self._answer.sent(step.request, answer)
            case Pull() if answer is not None:
                record.received += len(answer)
                self._answer.arrived(answer)
            case Work():
                record.decode_seconds += seconds
                if failure is not None:
                    record.refusal = failure.kind if isinstance(failure, DecodeError) else type(failure).__name__
            case Sleep():
                record.retries[self._ended_in] = record.retries.get(self._ended_in, 0) + 1
            case _:
                pass

    def _sent(self, send: Send, status: str) -> None:
        record = self._record
        record.statuses[status] = record.statuses.get(status, 0) + 1
        record.sent += len(send.request.content)

    def _in_numbers(self, result: object) -> Sampled | None:
        if isinstance(result, PromptLogprobs):
            # Position 0 has no past, and what is before the start was not asked for.
            scored = result.logprobs[max(self._answer.start, 1) :]
            return Sampled(0, missing=_missing(scored))
        if not isinstance(result, Completion):
            return None
        timing, rows = result.timing, result.routed_experts
        return Sampled(
            len(result.token_ids),
            missing=0 if result.logprobs is None else _missing(result.logprobs),
            trimmed={} if rows is None else _trimmed(rows.trimmed, self._request.draft.prompt_start),
            versions=_versions(result),
            first_token=None if timing is None else timing.first_token,
            finish_reason=result.finish_reason,
            request_id=result.request_id,
        )


class Answer:
    """The answer that is being read, as far as it is needed if it is refused."""

    __slots__ = ("_chunks", "_content", "_keeper", "_reading", "_request", "_size")

    def __init__(self, keeper: Keeper | None, reading: Callable[[], Readable]) -> None:
        self._keeper = keeper
        self._reading = reading
        self._request: HttpRequest | None = None
        self._content: Body | bytes = b""
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def start(self) -> int:
        """The first position that was asked for, of a call that scores."""
        return getattr(self._reading(), "start", 0)

    def sent(self, request: HttpRequest, answer: Any) -> None:
        """A request was sent, and answered unless ``answer`` is None."""
        self.forget()
        if self._keeper is not None:
            self._request = request
            self._content = answer.content if isinstance(answer, HttpResponse) else b""

    def arrived(self, chunk: bytes | bytearray) -> None:
        """A chunk of a stream came. No more of a stream is held than may be kept."""
        if self._keeper is None or self._size > self._keeper.max_bytes:
            return
        self._size += len(chunk)
        self._chunks.append(bytes(chunk))

    def refused(self, error: TitoError) -> Steps[None]:
        """Keep the answer, which could not be read."""
        keeper, request = self._keeper, self._request
        if keeper is None or request is None:
            return
        content = b"".join(self._chunks) or self._content
        facts = keeper.facts(request, self._reading(), error)
        del error
        yield Work(len(content), functools.partial(keeper.keep, facts, content))

    def forget(self) -> None:
        """Let go of the answer."""
        self._request, self._content, self._size = None, b"", 0
        self._chunks.clear()


def _missing(logprobs: LogprobArray) -> int:
    return int(np.count_nonzero(np.isnan(logprobs)))


@functools.lru_cache
def _address(root: str) -> tuple[str, int | None]:
    parts = urlsplit(root)
    return parts.hostname or "", parts.port


def _with_headers(send: Send, headers: Any) -> Send:
    request = dataclasses.replace(send.request, headers={**send.request.headers, **headers})
    return dataclasses.replace(send, request=request)


def _trimmed(here: int, wanted: int) -> dict[str, int]:
    there = wanted - here
    return {who: rows for who, rows in (("client", here), ("server", there)) if rows > 0}


def _versions(completion: Completion) -> dict[str, int]:
    """Tokens by version; a label without positions is of all of them."""
    found: Counter[str] = Counter()
    for span in completion.weight_versions or ():
        found[str(span.get("version"))] += span.get("end", len(completion.token_ids)) - span.get("start", 0)
    return dict(found)
