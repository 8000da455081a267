"""What a call does, step by step, without doing any of it.

A call is a generator: it yields a step (send this, wait that long, decode this) and is sent back what came of it, or
has the error raised where it stands. The clients drive it, one on an event loop, one on the calling thread; that is all
in which they differ.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._codec import Body, decode, decode_prompt_logprobs
from ._config import PREFLIGHT_TIMEOUT, Limits, RetryPolicy
from ._endpoint import Endpoint, checked_headers, hidden, secrets_of
from ._errors import MalformedBodyError, RoutedExpertsError, ServerError, TitoError
from ._logprobs_report import LogprobsChecks, refuse_logprobs
from ._preflight import PATH as MODELS_PATH
from ._preflight import ModelCards
from ._requests import (
    Call,
    Dialect,
    Draft,
    PromptIds,
    check_scored_at,
    checked_score,
    checked_temperature,
    dialect,
    encode,
    make_call,
    score_draft,
    score_params,
    score_rows_from,
)
from ._requests.call import check_sampling_defaults, wire_start
from ._requests.dynamo import names_prompt_start
from ._responses import error_of, request_id_of
from ._retry import Patience, Steps, retried, retry_after
from ._routing_report import RoutingChecks, refuse_findings
from ._transports.base import HttpRequest, HttpResponse, let_go

if TYPE_CHECKING:
    from ._config import RendererTransport, SamplingDefaults
    from ._types import Completion, ExpertsMode, FinalRow, MissingLogprob, PromptLogprobs, Wire


# Sizes of answers, of each route; the largest is expected next.
_REMEMBERED = 64

# Statuses of a server that has no such route.
_NO_ROUTE = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class Send:
    """Send once, and come back with the :class:`HttpResponse`, whatever its status."""

    request: HttpRequest
    into_body: bool
    timeout: float | None = None
    expected: int = 0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Take these steps while no other call of the client takes such steps."""

    steps: Callable[[], Steps[None]]


@dataclass(frozen=True, slots=True)
class Read:
    """Decode, and come back with what the reading makes of the body."""

    content: Body | bytes = field(repr=False)
    reading: Callable[[Body | bytes], Any]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a client wants its answers decoded; the arguments of :func:`dynamo_tito.decode`."""

    num_layers: int | None = None
    top_k: int | None = None
    experts: ExpertsMode = "int32"
    missing_logprob: MissingLogprob = "raise"
    require_routed_experts: bool = False
    final_row: FinalRow = "omitted"
    strict_routing: RoutingChecks | None = None
    strict_logprobs: LogprobsChecks | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def bare_experts(self) -> bool:
        """Whether routed experts without a shape (SGLang's) can be read."""
        return self.num_layers is not None and self.top_k is not None and self.experts != "skip"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is decoded.

    Attributes:
        wire: what answered.
        call: what was asked.
        draft: how it was asked.
        decoding: what the client wants.
    """

    wire: Wire
    call: Call = field(repr=False)
    draft: Draft = field(repr=False)
    decoding: Decoding

    def __call__(self, content: Body | bytes) -> Completion:
        """Decode. The server was asked to trim up to the prompt's last position at most; a row more goes here."""
        try:
            completion = self._decoded(content)
        except ValueError as error:
            if isinstance(error, TitoError) or (isinstance(content, Body) and content.closed):
                raise
            # decode() blames its caller for rows without a shape; here nobody asked the server for them.
            failure = RoutedExpertsError(str(error), kind="needs_num_layers")
        else:
            return self._wanted(completion)
        try:
            raise failure
        finally:
            del failure  # else this frame holds the error that holds this frame

    def _decoded(self, content: Body | bytes) -> Completion:
        want = self.decoding
        return decode(
            content,
            wire=self.wire,
            prompt_len=self.call.prompt_len,
            prompt_token_ids=self.call.prompt,
            routed_experts_prompt_start=wire_start(self.call, self.draft.prompt_start),
            num_layers=want.num_layers,
            top_k=want.top_k,
            experts=want.experts,
            require_logprobs=bool(self.draft.logprobs),
            require_routed_experts=want.require_routed_experts,
            missing_logprob=want.missing_logprob,
            final_row=want.final_row,
            limits=want.limits,
        )

    def _wanted(self, completion: Completion) -> Completion:
        """The completion without rows that were not asked for."""
        want = self.decoding
        refuse_logprobs(completion, want.strict_logprobs)
        surplus = self.draft.prompt_start - wire_start(self.call, self.draft.prompt_start)
        experts = completion.routed_experts
        if experts is None:
            return completion
        if want.strict_routing is not None:
            refuse_findings(experts.array, want.strict_routing)
        if not surplus:
            return completion
        rest = dataclasses.replace(experts, array=experts.array[surplus:], start=experts.start + surplus)
        return dataclasses.replace(completion, routed_experts=rest)


@dataclass(frozen=True, slots=True)
class Scoring:
    """One sequence that shall be scored, checked but for its ids.

    Attributes:
        spec: who is asked.
        call: what was asked.
        draft: how it is asked.
        headers: sent with the request.
        start: the first position that is wanted.
        temperature: what the logits are divided by.
        missing_logprob: what to do where the engine has no log-probability.
        limits: what is too much.
    """

    spec: Dialect
    call: Call = field(repr=False)
    draft: Draft = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    start: int
    temperature: float
    missing_logprob: MissingLogprob
    limits: Limits

    def body(self) -> bytes:
        """The request's body; a ValueError if an id is none."""
        return encode(self.draft, self.call)

    def __call__(self, content: Body | bytes) -> PromptLogprobs:
        """Decode the answer."""
        scores = decode_prompt_logprobs(
            content,
            wire=self.spec.wire,
            prompt_token_ids=self.call.prompt,
            start=self.start,
            missing_logprob=self.missing_logprob,
            limits=self.limits,
        )
        if self.temperature != 1:
            check_scored_at(self.temperature, bytes(content))  # decoded above, so that it is a document
        return scores


class Caller:
    """One server as a client sees it: where it is, and what has been learnt about it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str | None,
        transport: RendererTransport,
        retries: RetryPolicy,
        preflight: bool,
        sampling_defaults: SamplingDefaults,
        decoding: Decoding,
    ) -> None:
        dialect(transport)
        check_sampling_defaults(sampling_defaults)
        self.endpoint = endpoint
        self.model = model
        self.transport = transport
        self._retries = retries
        self._cards = ModelCards()
        self._preflight = preflight
        self._sampling_defaults = sampling_defaults
        self._decoding = decoding
        self._start_refused = False
        self._sizes: dict[str, tuple[int, ...]] = {}

    def generate(
        self,
        prompt_ids: PromptIds,
        *,
        sampling_params: Mapping[str, Any] | None,
        stop_token_ids: Sequence[int],
        cache_salt: str | None,
        priority: int | None,
        routed_experts_prompt_start: int | None,
        features: Mapping[str, Any] | None,
        extra_body: Mapping[str, Any] | None,
        session_id: str | None,
        data_parallel_rank: int | None,
        request_id: str | None,
        extra_headers: Mapping[str, str] | None,
        transport: RendererTransport | None,
        deadline: float | None,
    ) -> Steps[Completion]:
        """Check, ask how long a prompt may be, send, decode."""
        spec = dialect(transport or self.transport)
        call = make_call(
            prompt_ids,
            model=self.model,
            sampling_params=sampling_params,
            stop_token_ids=stop_token_ids,
            cache_salt=cache_salt,
            priority=priority,
            prompt_start=routed_experts_prompt_start,
            features=features,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            routed_experts=self._decoding.bare_experts,
            sampling_defaults=self._sampling_defaults,
        )
        headers = {**self.endpoint.headers, **checked_headers(spec.headers(call)), **checked_headers(extra_headers)}
        draft = spec.draft(call, send_start=not (spec.may_refuse_start and self._start_refused))
        self._check_answerable(draft)
        body = encode(draft, call)
        patience = Patience(self._retries, deadline=deadline)
        if (yield from self._prepare(spec, call, draft, patience)):
            body = encode(draft, call)
        response = yield from self._ask(spec, call, draft, headers, body, patience)
        reading = Reading(spec.wire, call, draft, self._decoding)
        completion: Completion = yield from self._read(response, reading, headers, call.request_id)
        return completion

    def scoring(
        self,
        token_ids: PromptIds,
        *,
        start: int,
        top_k: int,
        temperature: float,
        cache_salt: str | None,
        priority: int | None,
        extra_body: Mapping[str, Any] | None,
        session_id: str | None,
        data_parallel_rank: int | None,
        request_id: str | None,
        extra_headers: Mapping[str, str] | None,
        transport: RendererTransport | None,
    ) -> Scoring:
        """Check what a sequence shall be scored with."""
        name = transport or self.transport
        spec = dialect(name)
        call = make_call(
            token_ids,
            model=self.model,
            sampling_params=score_params(name, top_k),
            stop_token_ids=(),
            cache_salt=cache_salt,
            priority=priority,
            prompt_start=None,
            features=None,
            extra_body=extra_body,
            session_id=session_id,
            data_parallel_rank=data_parallel_rank,
            request_id=request_id,
            routed_experts=False,
            sampling_defaults=self._sampling_defaults,
            ids_name="token_ids",
        )
        start, top_k = checked_score(start, top_k, call.prompt_len)
        temperature = checked_temperature(name, temperature, extra_body)
        call = dataclasses.replace(call, prompt_start=score_rows_from(name, call.prompt_len))
        headers = {**self.endpoint.headers, **checked_headers(spec.headers(call)), **checked_headers(extra_headers)}
        draft = score_draft(name, spec.draft(call), start=start, top_k=top_k, temperature=temperature)
        want = self._decoding
        return Scoring(spec, call, draft, headers, start, temperature, want.missing_logprob, want.limits)

    def score(self, scoring: Scoring, *, deadline: float | None) -> Steps[PromptLogprobs]:
        """Ask how long a prompt may be, send, decode."""
        call, draft = scoring.call, scoring.draft
        body = scoring.body()
        patience = Patience(self._retries, deadline=deadline)
        if (yield from self._prepare(scoring.spec, call, draft, patience)):
            body = scoring.body()
        response = yield from self._ask(scoring.spec, call, draft, scoring.headers, body, patience)
        del body  # of a long sequence it is a megabyte
        scores: PromptLogprobs = yield from self._read(response, scoring, scoring.headers, call.request_id)
        return scores

    def exchange(self, path: str, members: Mapping[str, Any], *, deadline: float | None) -> Steps[Any]:
        """Send JSON to a route that samples nothing, and come back with the JSON of its answer."""
        body = json.dumps(members).encode()
        request = HttpRequest("POST", self.endpoint.root + path, self.endpoint.headers, body)
        response = yield from self._send(request, None, Patience(self._retries, deadline=deadline), into_body=False)
        try:
            return json.loads(bytes(response.content))
        except (ValueError, RecursionError):
            raise MalformedBodyError(f"the answer of {path} is not JSON", kind="syntax") from None

    def _read(
        self,
        response: HttpResponse,
        reading: Callable[[Body | bytes], Any],
        headers: Mapping[str, str],
        request_id: str | None,
    ) -> Steps[Any]:
        """Decode. An error that came with status 200 knows its request and hides its keys as any other does."""
        try:
            return (yield from self._read_or_let_go(response.content, reading))
        except ServerError as error:
            secrets = (*self.endpoint.secrets, *secrets_of(headers))
            failure = type(error)(
                hidden(str(error), secrets),
                body=hidden(error.body, secrets).encode(),
                request_id=request_id_of(response.headers, error.body.encode(), secrets) or request_id,
            )
        try:
            raise failure
        finally:
            del failure  # else this frame holds the error that holds this frame

    @staticmethod
    def _read_or_let_go(content: Body | bytes, reading: Callable[[Body | bytes], Any]) -> Steps[Any]:
        """Decode; where that fails, nothing of the body and of what was decoded stays with the error."""
        try:
            return (yield Read(content, reading))
        except BaseException as error:
            let_go(content, error.__traceback__)
            raise

    def _ask(
        self, spec: Dialect, call: Call, draft: Draft, headers: Mapping[str, str], body: bytes, patience: Patience
    ) -> Steps[HttpResponse]:
        """Send; once more without ``routed_experts_prompt_start`` if the server does not know it.

        Nothing was sampled then, and the rows are dropped when the answer is read.
        """
        url = self.endpoint.root + spec.path
        refused = False
        try:
            return (yield from self._send(HttpRequest("POST", url, headers, body), call.request_id, patience))
        except ServerError as error:
            refused = error.status == 400 and names_prompt_start(error.body)
            if not (refused and draft.prompt_start and spec.may_refuse_start):
                raise
        self._start_refused = True
        body = encode(spec.draft(call, send_start=False), call)
        return (yield from self._send(HttpRequest("POST", url, headers, body), call.request_id, patience))

    def _send(
        self,
        request: HttpRequest,
        request_id: str | None,
        patience: Patience,
        *,
        into_body: bool = True,
        timeout: float | None = None,
    ) -> Steps[HttpResponse]:
        """A good answer, or the error that the answer is."""

        def attempt() -> Steps[HttpResponse]:
            # Aborted answers are small, those of longer conversations large, and many are under way at once.
            sizes = self._sizes.get(request.url, ())
            response: HttpResponse = yield Send(request, into_body, timeout, max(sizes, default=0))
            if 200 <= response.status < 300:
                sizes = (*self._sizes.get(request.url, ()), len(response.content))
                self._sizes[request.url] = sizes[-_REMEMBERED:]
                return response
            patience.server_asks = retry_after(response.headers)
            raise error_of(
                response.status,
                response.headers,
                bytes(response.content),
                request_id=request_id,
                secrets=(*self.endpoint.secrets, *secrets_of(request.headers)),
                credentials="authorization" in request.headers,
            )

        return retried(self._retries, patience, attempt, Sleep)

    def _prepare(self, spec: Dialect, call: Call, draft: Draft, patience: Patience) -> Steps[bool]:
        """Ask the server what has to be known of the model, check the length, and say whether the draft was changed.

        Where an adapter is named otherwise than a model, the answer decides who samples: the server is asked whatever
        ``preflight`` says, and a failed question is an error. A server without the route gets the name itself: it has
        such an adapter, or refuses.
        """
        cards, model, member = self._cards, draft.model, draft.adapter_member
        needed = member is not None and not cards.knows(model)
        if needed or (self._preflight and cards.must_ask(model)):
            yield Alone(lambda: self._ask_models(model, patience, needed=needed))
        if self._preflight:
            cards.check(model, call.prompt_len, spec.reserved)
        if member is None or model is None or not cards.is_adapter(model):
            return False
        draft.members[member] = model
        return True

    def _ask_models(self, model: str | None, patience: Patience, *, needed: bool) -> Steps[None]:
        cards = self._cards
        if cards.knows(model) or not (needed or cards.must_ask(model)):
            return  # the call before us has asked
        headers = {name: value for name, value in self.endpoint.headers.items() if name != "content-type"}
        request = HttpRequest("GET", self.endpoint.root + MODELS_PATH, headers)
        try:
            response: HttpResponse = yield from (
                self._send(request, None, patience, into_body=False, timeout=PREFLIGHT_TIMEOUT)
                if needed
                else _asked_once(request)
            )
        except TitoError as error:
            if needed and isinstance(error, ServerError) and error.status in _NO_ROUTE:
                cards.unlisted(model)
                return
            cards.failed(model)
            if needed:
                error.add_note(f"GET {MODELS_PATH} has to say whether {model!r} is an adapter")
                raise
            return
        if response.status == 200:
            cards.learn(model, bytes(response.content))
        else:
            cards.failed(model)

    def _check_answerable(self, draft: Draft) -> None:
        if draft.choices != 1:
            raise ValueError(f"n is {draft.choices}; a call returns one completion")
        if draft.members.get("return_routed_experts") and not self._decoding.bare_experts:
            raise ValueError(
                "SGLang sends routed experts without their shape: give the client num_layers and top_k to read them"
            )


def _asked_once(request: HttpRequest) -> Steps[HttpResponse]:
    response: HttpResponse = yield Send(request, into_body=False, timeout=PREFLIGHT_TIMEOUT)
    return response
