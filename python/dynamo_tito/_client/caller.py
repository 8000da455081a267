"""One server: what is known of its models, and the steps that every call to it shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_tito._config import PREFLIGHT_TIMEOUT
from dynamo_tito._errors import MalformedBodyError, ServerError, TitoError, raise_without_cycle
from dynamo_tito._http.base import HttpRequest, HttpResponse, release
from dynamo_tito._http.endpoint import Endpoint, checked_headers
from dynamo_tito._http.secrets import hidden, secrets_of
from dynamo_tito._requests import Call, Dialect, Request, dialect, encode
from dynamo_tito._requests.call import check_sampling_defaults
from dynamo_tito._requests.dynamo import names_prompt_start

from .decoding import Decoding
from .preflight import PATH as MODELS_PATH
from .preflight import ModelCards
from .retry import RetryWaits, retried, retry_after
from .server_errors import error_of, request_id_of
from .steps import Exclusive, Read, Send, Steps

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport, RetryPolicy, SamplingDefaults
    from dynamo_tito._native import Body


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
    ) -> None:
        dialect(transport)
        check_sampling_defaults(sampling_defaults)
        self.endpoint = endpoint
        self.model = model
        self.transport = transport
        self.sampling_defaults = sampling_defaults
        self.decoding = decoding
        self.start_refused = False
        self._retries = retries
        self._cards = ModelCards()
        self._preflight = preflight
        self._sizes: dict[str, tuple[int, ...]] = {}

    def headers(self, spec: Dialect, call: Call, extra: Mapping[str, str] | None) -> dict[str, str]:
        """The headers of a request: the client's, the route's, the call's own; later ones win."""
        return {**self.endpoint.headers, **checked_headers(spec.headers(call)), **checked_headers(extra)}

    def sample(self, request: Request, reading: Callable[[Body | bytes], T], deadline: float | None) -> Steps[T]:
        """Ask how long a prompt may be, send, decode."""
        body = request.encode()
        waits = RetryWaits(self._retries, deadline=deadline)
        if (yield from self._prepare(request, waits)):
            body = request.encode()
        response = yield from self._ask(request, body, waits)
        del body  # a megabyte for a long sequence
        return (yield from self._read(response, reading, request))

    def exchange(self, path: str, members: Mapping[str, Any], deadline: float | None) -> Steps[Any]:
        """Send JSON to a route that samples nothing. The result is the answer's JSON."""
        request = HttpRequest("POST", self.endpoint.root + path, self.endpoint.headers, json.dumps(members).encode())
        response = yield from self._send(request, None, RetryWaits(self._retries, deadline=deadline), into_body=False)
        try:
            return json.loads(bytes(response.content))
        except (ValueError, RecursionError):
            raise MalformedBodyError(f"the answer of {path} is not JSON", kind="syntax") from None

    def _read(self, response: HttpResponse, reading: Callable[[Body | bytes], T], request: Request) -> Steps[T]:
        """Decode. If that fails, the error keeps nothing of the body and of what was decoded.

        A server's error in a body with status 200 gets the request's id, and its secrets are masked.
        """
        try:
            result: T = yield Read(response.content, reading)
        except ServerError as error:
            release(response.content, error.__traceback__)
            secrets = (*self.endpoint.secrets, *secrets_of(request.headers))
            known = request_id_of(response.headers, error.body.encode(), secrets)
            raise_without_cycle(
                type(error)(
                    hidden(str(error), secrets),
                    body=hidden(error.body, secrets).encode(),
                    request_id=known or request.call.request_id,
                )
            )
        except BaseException as error:
            release(response.content, error.__traceback__)
            raise
        return result

    def _ask(self, request: Request, body: bytes, waits: RetryWaits) -> Steps[HttpResponse]:
        """Send; once more without ``routed_experts_prompt_start`` if the server does not know it.

        Nothing was sampled then, and the rows are dropped when the answer is read.
        """
        spec, call = request.spec, request.call
        url = self.endpoint.root + spec.path
        try:
            return (yield from self._send(HttpRequest("POST", url, request.headers, body), call.request_id, waits))
        except ServerError as error:
            refused = error.status == 400 and names_prompt_start(error.body)
            if not (refused and request.draft.prompt_start and spec.may_refuse_start):
                raise
        self.start_refused = True
        body = encode(spec.draft(call, send_start=False), call)
        return (yield from self._send(HttpRequest("POST", url, request.headers, body), call.request_id, waits))

    def _send(
        self,
        request: HttpRequest,
        request_id: str | None,
        waits: RetryWaits,
        *,
        into_body: bool = True,
        timeout: float | None = None,
    ) -> Steps[HttpResponse]:
        """A good answer, or the error that the answer is."""

        def attempt() -> Steps[HttpResponse]:
            # The largest recent answer: aborted ones are small, and many are under way at once.
            sizes = self._sizes.get(request.url, ())
            response: HttpResponse = yield Send(request, into_body, timeout, max(sizes, default=0))
            if 200 <= response.status < 300:
                sizes = (*self._sizes.get(request.url, ()), len(response.content))
                self._sizes[request.url] = sizes[-_REMEMBERED:]
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

        return retried(waits, attempt)

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
                sent = self._send(request, None, waits, into_body=False, timeout=PREFLIGHT_TIMEOUT)
                response = yield from sent
            else:
                response = yield Send(request, into_body=False, timeout=PREFLIGHT_TIMEOUT)
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
