"""JSON requests to one server, over connections of their own: they never queue behind generation."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import urlencode

from dynamo_tito._client.server_errors import error_of
from dynamo_tito._config import CONNECT_TIMEOUT, Limits
from dynamo_tito._errors import ServerError, TransportError
from dynamo_tito._http import open_async
from dynamo_tito._http.base import Exchange, HttpRequest, HttpResponse, Wiring
from dynamo_tito._http.endpoint import make_endpoint
from dynamo_tito._http.environment import Tls, checked_tls, proxy_for
from dynamo_tito._http.secrets import hidden, secrets_of_url

if TYPE_CHECKING:
    from dynamo_tito._http.base import AsyncHttpEngine

_MAX_ANSWER = 64 << 20


class HttpOptions(TypedDict, total=False):
    """How servers are reached.

    ``api_key`` is sent as a bearer token and ``headers`` with every request, neither is ever shown; ``tls`` is
    ``"verify"``, ``"insecure"`` or an :class:`ssl.SSLContext`; ``trust_env`` uses the environment's proxies;
    ``connect_timeout`` is in seconds.
    """

    api_key: str | None
    headers: Mapping[str, str] | None
    tls: Tls
    trust_env: bool
    connect_timeout: float


def without_credentials(options: HttpOptions) -> HttpOptions:
    """The options without credentials, for servers other than the one they belong to."""
    bare = options.copy()
    bare.pop("api_key", None)
    bare.pop("headers", None)
    return bare


class Server:
    """Requests to one server, each of at most ``timeout`` seconds."""

    def __init__(self, url: str, *, timeout: float, **options: Unpack[HttpOptions]) -> None:
        self._endpoint = make_endpoint(url, api_key=options.get("api_key"), headers=options.get("headers"))
        proxy = proxy_for(self.url) if options.get("trust_env", True) else None
        self._secrets = (*self._endpoint.secrets, *secrets_of_url(proxy))
        wiring = Wiring(
            limits=Limits(max_response_bytes=_MAX_ANSWER, max_decompressed_bytes=_MAX_ANSWER),
            connect_timeout=options.get("connect_timeout", CONNECT_TIMEOUT),
            proxy=proxy,
            trust=checked_tls(options.get("tls", "verify")),
            secrets=self._secrets,
        )
        self._transport: AsyncHttpEngine = open_async("native", None, wiring)
        self._timeout = timeout

    @property
    def url(self) -> str:
        """Its root, without credentials and without ``/v1``."""
        return self._endpoint.root

    async def send(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send; the answer, whatever its status. A GET is sent again if the connection ended.

        Args:
            method: ``"GET"`` or ``"POST"``.
            path: below the root.
            body: sent as JSON; bytes are sent as they are.
            query: appended to the path.

        Raises:
            TransportError: no complete answer came in time.
        """
        try:
            return await self._send_once(method, path, body, query)
        except TransportError as error:
            # A server may close an idle connection just as it is used.
            if method != "GET" or error.phase == "connect":
                raise
        return await self._send_once(method, path, body, query)

    async def _send_once(self, method: str, path: str, body: Any, query: Mapping[str, str] | None) -> HttpResponse:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        exchange = Exchange(
            HttpRequest(method, url, self._endpoint.headers, content), deadline=time.monotonic() + self._timeout
        )
        try:
            async with asyncio.timeout(self._timeout):
                return await self._transport.asend(exchange)
        except TransportError as error:
            failure = TransportError(f"{method} {self.url}{path}: {error}", phase=error.phase)
        except TimeoutError:
            failure = TransportError(f"{method} {self.url}{path}: no answer in {self._timeout:g} s", phase="headers")
        raise failure

    async def json(self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None) -> Any:
        """Send; the answer's JSON, or its text where it is none.

        Raises:
            ServerError: any status but 2xx.
            TransportError: no complete answer came in time.
        """
        return self.judge(await self.send(method, path, body, query=query), path)

    def judge(self, response: HttpResponse, path: str) -> Any:
        """The JSON (or text) of an answer with status 2xx; otherwise its error is raised."""
        content = bytes(response.content)
        if not 200 <= response.status < 300:
            sent = "authorization" in self._endpoint.headers
            error = error_of(response.status, response.headers, content, secrets=self._secrets, credentials=sent)
            error.args = (f"{self.url}{path}: {error}",)
            raise error
        try:
            return json.loads(content) if content else None
        except (ValueError, RecursionError):
            return content.decode("utf-8", "replace")

    def refusal(self, path: str, message: str) -> ServerError:
        """The error of a worker that answered 200 and said no in the body."""
        return ServerError(f"{self.url}{path}: {hidden(message, self._secrets)}", status=200)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()


async def models_of(server: Server) -> tuple[str, ...]:
    """The names in ``/v1/models``."""
    return tuple(str(card["id"]) for card in await cards_of(server))


async def cards_of(server: Server) -> list[dict[str, Any]]:
    """The cards in ``/v1/models`` that have a name.

    Raises:
        ServerError: the answer is no list of cards.
    """
    document = await server.json("GET", "/v1/models")
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise server.refusal("/v1/models", "the answer is no list of models")
    return [card for card in data if isinstance(card, dict) and isinstance(card.get("id"), str)]
