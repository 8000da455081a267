"""One completion: from the arguments of ``generate`` or ``stream`` to the steps of the call."""

from __future__ import annotations

import dataclasses
import functools
import time
import traceback
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from dynamo_tito._errors import (
    MalformedBodyError,
    ServerError,
    TitoError,
    TransportError,
    UnsupportedRouteError,
    raise_without_cycle,
)
from dynamo_tito._requests import CALL_KEYWORDS, PromptIds, Request, dialect, make_call

from .caller import Caller
from .decoding import Reading
from .keeping import keeping
from .options import OnInterrupt
from .steps import Emit, Pull, Work
from .streaming import StreamReading
from .watch import begins, broke_off, missing_in

if TYPE_CHECKING:
    from dynamo_tito._native import CallRecord
    from dynamo_tito._types import Completion

    from .steps import Steps

_ON_INTERRUPT = get_args(OnInterrupt)

_LINGER = 1.0
"""Seconds that the end of a body is waited for once the stream has said that it is over, to keep the connection."""


class Generation:
    """One call of ``generate`` or ``stream``; its arguments are checked when it is made.

    Args:
        caller: the server.
        prompt_ids: the prompt.
        options: all of :class:`GenerateOptions`, or of :class:`StreamOptions`.
        emits: whether new tokens are handed to the caller as they come.
    """

    def __init__(self, caller: Caller, prompt_ids: PromptIds, options: Mapping[str, Any], *, emits: bool) -> None:
        self._caller = caller
        self._options = options
        self._emits = emits
        self._spec = dialect(options["transport"] or caller.transport)
        self._keeps = _keeps(options["on_interrupt"])
        self._asked = True if emits else _asked(options["stream"], keeps=self._keeps)
        self._call = make_call(
            prompt_ids,
            model=caller.model,
            routed_experts=caller.decoding.bare_experts or _asks_an_artifact_for_experts(caller, options),
            sampling_defaults=caller.sampling_defaults,
            **CALL_KEYWORDS.among(options),
        )
        streams = self._asked or (self._asked is None and self._spec.path in caller.only_streams)
        self._request = self._made(stream=streams)
        self._start = self._request.draft.prompt_start
        self._reading: StreamReading | None = None
        self._record: CallRecord | None = None

    @property
    def request_id(self) -> str | None:
        """The id that the request is sent with."""
        return self._call.request_id or self._request.engine_id

    def steps(self, deadline: float | None) -> Steps[Completion]:
        """The steps of the call."""
        steps, keeper = self._steps(deadline), self._caller.keeper
        if keeper is None:
            return steps
        return keeping(steps, keeper, lambda: Reading(self._request, self._caller.decoding))

    def _steps(self, deadline: float | None) -> Steps[Completion]:
        caller, request = self._caller, self._request
        self._record = record = begins(caller, "generate", request)
        completion: Completion | None = None
        try:
            if not request.call.stream:
                try:
                    completion = yield from caller.sample(request, Reading(request, caller.decoding), deadline, record)
                except UnsupportedRouteError:
                    if self._asked is False:
                        raise
                    # Nothing was sampled. Dynamo 1.6.1 answers SGLang's route so.
                    self._request = request = self._made(stream=True)
            if completion is None:
                completion = yield from self._streamed(request, deadline)
        except BaseException as error:
            if record is not None:
                broke_off(record, error, deadline)
            raise
        if record is not None:
            missing = missing_in(completion.logprobs) if caller.may_miss else 0
            record.sampled(completion, self._start, missing)
        return completion

    def kept(self, error: BaseException) -> Completion | None:
        """What is whole of an interrupted stream, where the caller wants it instead of this error.

        It is attached to errors that are raised anyway. They keep nothing else of the stream.
        """
        reading, self._reading = self._reading, None
        if reading is None:
            return None
        try:
            if not self._keeps:
                return None
            if _interrupts(error):
                return self._seen(reading.abandon())
            if (reading.received and _told_within(error)) or not isinstance(error, Exception):
                vars(error)["completion"] = self._seen(reading.abandon())
        except TitoError as refused:
            error.add_note(f"nothing can be kept of the stream: {refused}")
        finally:
            reading.close()
            traceback.clear_frames(error.__traceback__)
        return None

    def left(self) -> Completion | None:
        """What is whole of a stream that the caller leaves, if it is wanted."""
        reading, self._reading = self._reading, None
        try:
            return None if reading is None or not self._keeps else self._seen(reading.abandon())
        finally:
            if reading is not None:
                reading.close()

    def _seen(self, completion: Completion) -> Completion:
        """What is kept of a call that broke off, once it is noted."""
        if self._record is not None:
            missing = missing_in(completion.logprobs) if self._caller.may_miss else 0
            self._record.kept(completion, self._start, missing)
        return completion

    def _streamed(self, request: Request, deadline: float | None) -> Steps[Completion]:
        caller, record = self._caller, self._record
        self._reading = reading = StreamReading(Reading(request, caller.decoding), deltas=self._emits)
        response = yield from caller.ask(request, deadline, record, begins=reading.begins)
        if self._asked is None:
            caller.only_streams.add(request.spec.path)
        try:
            if self._emits:
                yield Emit(None)
            yield from _arrived(reading, record)
            if record is not None:
                record.decodes()
            completion: Completion = yield Work(reading.received, reading.finish)
        except ServerError as error:
            raise_without_cycle(caller.told(error, response, request))
        self._reading = None
        return completion

    def _made(self, *, stream: bool) -> Request:
        decoding = self._caller.decoding
        if stream:
            self._check_streams()
        request = self._drafted(stream=stream, request_id=self._call.request_id)
        if stream and request.engine_id is None:
            # So that it can be aborted before its answer names it.
            request = self._drafted(stream=True, request_id=self._call.request_id or str(uuid.uuid4()))
        if request.draft.choices != 1:
            raise ValueError(f"n is {request.draft.choices}; a call returns one completion")
        if request.draft.members.get("return_routed_experts") and not decoding.bare_experts:
            raise ValueError(
                "SGLang sends routed experts without their shape: give the client num_layers and top_k to read them"
            )
        if request.draft.members.get("return_indexer_topk") and not decoding.bare_indexer:
            raise ValueError(
                "SGLang sends indexer_topk without its shape: give the client num_indexer_layers and index_topk"
            )
        return request

    def _drafted(self, *, stream: bool, request_id: str | None) -> Request:
        caller, spec = self._caller, self._spec
        call = self._call
        if (call.stream, call.request_id) != (stream, request_id):
            call = dataclasses.replace(call, stream=stream, request_id=request_id)
        headers = caller.headers(spec, call, self._options["extra_headers"])
        draft = spec.draft(call, send_start=not (spec.may_refuse_start and caller.start_refused))
        return Request(spec, call, draft, headers)

    def _check_streams(self) -> None:
        if not self._caller.streams:
            raise NotImplementedError(
                "the http_client hands over no streams: it lacks the method of tito.StreamingHttpEngine (stream) or "
                "tito.AsyncStreamingHttpEngine (astream)"
            )
        if self._caller.decoding.require_routed_experts and not self._spec.streams_routing:
            raise ValueError(
                f"a stream of {self._spec.transport} brings no routed experts, and the client requires them: give "
                "stream=False"
            )


def _arrived(reading: StreamReading, record: CallRecord | None) -> Steps[None]:
    """Feed the stream, to the end of its body."""
    ends: float | None = None
    while True:
        if reading.done and ends is None:
            ends = time.monotonic() + _LINGER
        within = None if ends is None else ends - time.monotonic()
        if within is not None and within <= 0:
            return
        try:
            chunk = yield Pull(within)
        except TransportError:
            if reading.done:
                return
            raise
        if chunk is None:
            return
        if record is not None:
            record.arrived(len(chunk))
            record.decodes()
        delta = yield Work(reading.arrived(chunk), functools.partial(reading.feed, chunk))
        if record is not None:
            record.decoded()
        if delta is not None:
            yield Emit(delta)


def _asks_an_artifact_for_experts(caller: Caller, options: Mapping[str, Any]) -> bool:
    return options["artifact"] is not None and caller.decoding.experts != "skip"


def _keeps(on_interrupt: object) -> bool:
    if on_interrupt not in _ON_INTERRUPT:
        raise ValueError(f"on_interrupt must be one of {', '.join(_ON_INTERRUPT)}, not {on_interrupt!r}")
    return on_interrupt == "return"


def _asked(stream: object, *, keeps: bool) -> bool | None:
    if stream is not None and not isinstance(stream, bool):
        raise TypeError(f"stream must be True, False or None, not {type(stream).__name__}")
    if keeps and stream is False:
        raise ValueError("on_interrupt='return' needs a stream: of an answer that comes whole nothing can be kept")
    return True if keeps else stream


def _interrupts(error: BaseException) -> bool:
    """Whether the stream broke off, after the request may have reached an engine."""
    if isinstance(error, TransportError):
        return error.phase != "connect"
    return isinstance(error, MalformedBodyError) and error.kind == "unfinished_stream"


def _told_within(error: BaseException) -> bool:
    """Whether the server told this error within the stream."""
    return isinstance(error, ServerError) and error.status is None
