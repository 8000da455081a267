"""One server: what is known of its models, and the steps that every call to it shares."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_tito._config import PREFLIGHT_TIMEOUT
from dynamo_tito._errors import MalformedBodyError, ServerError, TitoError, raise_without_cycle
from dynamo_tito._http.base import HttpRequest, HttpResponse, release
from dynamo_tito._http.endpoint import EVENTS, JSON, Endpoint, checked_headers
from dynamo_tito._http.secrets import hidden, secrets_of
from dynamo_tito._requests import Call, Dialect, Request, dialect, encode
from dynamo_tito._requests.call import check_sampling_defaults
from dynamo_tito._requests.dynamo import names_prompt_start

from .decoding import Decoding
from .own import OwnRequests
from .preflight import PATH as MODELS_PATH
from .preflight import ModelCards
from .retry import RetryWaits, retried, retry_after
from .server_errors import class_of_body, error_of, request_id_of
from .steps import Exclusive, Send, Steps, Work

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport, RetryPolicy, SamplingDefaults
    from dynamo_tito._native import Body, CallRecord
    from dynamo_tito._observe import Observer, Operation

    from .refused import Keeper

T = TypeVar("T")

# Sizes of answers that are kept per route; the largest of them is expected next.
_REMEMBERED = 64

# Statuses of a server that has no such route.
_NO_ROUTE = (404, 405, 501)


class Caller:
    """One server as a client sees it: its address, and what was learnt about it."""

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
        keeper: Keeper | None = None,
    ) -> None:
        dialect(transport)
        check_sampling_defaults(sampling_defaults)
        self.endpoint = endpoint
        self.model = model
        self.transport = transport
        self.sampling_defaults = sampling_defaults
        self.decoding = decoding
        self.keeper = keeper
        self.start_refused = False
        self.streams = True
        """Whether the HTTP engine can hand over a body as it comes."""
        self.only_streams: set[str] = set()
        """Routes of this server that answer 501 unless a stream is asked for."""
        self.own = OwnRequests()
        self.may_miss = decoding.missing_logprob == "nan"
        """Whether log-probabilities may be missing; otherwise such an answer is refused."""
        self.observer: Observer | None = None
        """Whom the calls were told of last."""
        self.starts: dict[Operation, dict[str, Callable[[int], CallRecord]]] = {}
        """What notes a call that begins, by operation and transport."""
        self._retries = retries
        self._cards = ModelCards()
        self._preflight = preflight
        self._sizes: dict[str, deque[int]] = {}

    def headers(self, spec: Dialect, call: Call, extra: Mapping[str, str] | None) -> dict[str, str]:
        """The headers of a request: the client's, the route's, the call's own; later ones win."""
        own = dict(self.endpoint.headers)
        if call.stream and own["accept"] == JSON:
            own["accept"] = EVENTS
        own.update(checked_headers(spec.headers(call)))
        if extra:
            own.update(checked_headers(extra))
        return own

    def sample(
        self,
        request: Request,
        reading: Callable[[Body | bytes], T],
        deadline: float | None,
        record: CallRecord | None = None,
    ) -> Steps[T]:
        """Ask how long a prompt may be, send, decode; ``record`` notes it."""
        response = yield from self.ask(request, deadline, record)
        return (yield from self._read(response, reading, request))

    def ask(
        self,
        request: Request,
        deadline: float | None,
        record: CallRecord | None = None,
        *,
        begins: Callable[[], None] | None = None,
    ) -> Steps[HttpResponse]:
        """Ask how long a prompt may be, and send. Of a stream the result is without its body; see :class:`Send`.

        It is sent once more without ``routed_experts_prompt_start`` if the server does not know it.
        """
        body = request.encode()
        waits = RetryWaits(self._retries, deadline=deadline)
        if (yield from self._prepare(request, waits)):
            body = request.encode()
        self.own.note(request)
        spec, call, headers = request.spec, request.call, request.headers
        if record is not None and record.headers:
            headers = {**headers, **record.headers}
        sent = HttpRequest("POST", self.endpoint.root + spec.path, headers, body)
        send = Send(sent, not call.stream, stream=call.stream, begins=begins)
        try:
            return (yield from self._send(send, call.request_id, waits, record))
        except ServerError as error:
            refused = error.status == 400 and names_prompt_start(error.body)
            if not (refused and request.draft.prompt_start and spec.may_refuse_start):
                raise
        # Nothing was sampled. The rows are dropped when the answer is read.
        self.start_refused = True
        body = encode(spec.draft(call, send_start=False), call, spec.transport)
        send = dataclasses.replace(send, request=dataclasses.replace(sent, content=body))
        return (yield from self._send(send, call.request_id, waits, record))

    def tell(
        self, path: str, members: Mapping[str, Any], deadline: float | None, *, root: str | None = None
    ) -> Steps[HttpResponse]:
        """Send JSON to a route that samples nothing, of this server or of the one at ``root``."""
        url = (self.endpoint.root if root is None else root) + path
        request = HttpRequest("POST", url, self.endpoint.headers, json.dumps(members).encode())
        return self._send(Send(request), None, RetryWaits(self._retries, deadline=deadline))

    def exchange(self, path: str, members: Mapping[str, Any], deadline: float | None) -> Steps[Any]:
        """As :meth:`tell`, of this server. The result is the answer's JSON."""
        response = yield from self.tell(path, members, deadline)
        try:
            return json.loads(bytes(response.content))
        except (ValueError, RecursionError):
            raise MalformedBodyError(f"the answer of {path} is not JSON", kind="syntax") from None

    def _read(self, response: HttpResponse, reading: Callable[[Body | bytes], T], request: Request) -> Steps[T]:
        """Decode. If that fails, the error keeps nothing of the body and of what was decoded.

        A server's error in a body with status 200 gets the request's id, and its secrets are masked.
        """
        try:
            result: T = yield Work(len(response.content), functools.partial(reading, response.content))
        except ServerError as error:
            release(response.content, error.__traceback__)
            raise_without_cycle(self.told(error, response, request, type(error)))
        except BaseException as error:
            release(response.content, error.__traceback__)
            raise
        return result

    def told(
        self, error: ServerError, response: HttpResponse, request: Request, kind: type[ServerError] | None = None
    ) -> ServerError:
        """An error that a server told with status 200, with the request's id and masked secrets.

        Args:
            error: as the decoder found it.
            response: the answer.
            request: what was asked.
            kind: the class; None for that of the status in the error's body.
        """
        secrets = (*self.endpoint.secrets, *secrets_of(request.headers))
        body = error.body.encode()
        return (kind or class_of_body(body))(
            hidden(str(error), secrets),
            body=hidden(error.body, secrets).encode(),
            request_id=request_id_of(response.headers, body, secrets) or request.call.request_id,
        )

    def _send(
        self, send: Send, request_id: str | None, waits: RetryWaits, record: CallRecord | None = None
    ) -> Steps[HttpResponse]:
        """A good answer, or the error that the answer is."""
        # The largest recent answer: aborted ones are small, and many are under way at once. That of the
        # first one may be still to come.
        sizes = self._sizes.get(send.request.url)
        send.expected = 0 if sizes is None else max(sizes.copy(), default=0)
        return retried(waits, send, functools.partial(self._judged, send, request_id, waits), record)

    def _judged(self, send: Send, request_id: str | None, waits: RetryWaits, response: HttpResponse) -> HttpResponse:
        request = send.request
        if response.good:
            if not send.stream:
                sizes = self._sizes.get(request.url)
                if sizes is None:
                    sizes = self._sizes.setdefault(request.url, deque(maxlen=_REMEMBERED))
                sizes.append(len(response.content))
            return response
        waits.server_asks = retry_after(response.headers)
        raise error_of(
            response.status,
            response.headers,
            bytes(response.content),
            request_id=request_id,
            secrets=(*self.endpoint.secrets, *secrets_of(request.headers)),
            credentials="authorization" in request.headers,
        )

    def _prepare(self, request: Request, waits: RetryWaits) -> Steps[bool]:
        """Ask the server about the model, check the prompt's length, and say whether the draft was changed.

        Where an adapter is named otherwise than a model, the answer decides what is sent: the server is asked also with
        ``preflight=False``, and a failed question is an error. A server without the route
        gets the name as an adapter's.
        """
        cards, draft = self._cards, request.draft
        model, member = draft.model, draft.adapter_member
        needed = member is not None and not cards.knows(model)
        if needed or (self._preflight and cards.must_ask(model)):
            yield Exclusive(lambda: self._ask_models(model, waits, needed=needed))
        if self._preflight:
            cards.check(model, request.call.prompt_len, request.spec.reserved)
        if member is None or model is None or not cards.is_adapter(model):
            return False
        draft.members[member] = model
        return True

    def _ask_models(self, model: str | None, waits: RetryWaits, *, needed: bool) -> Steps[None]:
        cards = self._cards
        if cards.knows(model) or not (needed or cards.must_ask(model)):
            return  # the call before this one has asked
        headers = {name: value for name, value in self.endpoint.headers.items() if name != "content-type"}
        request = HttpRequest("GET", self.endpoint.root + MODELS_PATH, headers)
        try:
            if needed:
                response = yield from self._send(Send(request, timeout=PREFLIGHT_TIMEOUT), None, waits)
            else:
                response = yield Send(request, timeout=PREFLIGHT_TIMEOUT)
        except TitoError as error:
            if needed and isinstance(error, ServerError) and error.status in _NO_ROUTE:
                cards.unlisted(model)
                return
            cards.failed(model)
            if needed:
                error.add_note(f"GET {MODELS_PATH} must say whether {model!r} is an adapter")
                raise
            return
        if response.status == 200:
            cards.learn(model, bytes(response.content))
        else:
            cards.failed(model)
