"""The error that an answer is: one class for each status, whatever the envelope.

Envelopes in use: Dynamo's flat ``{message, type, code}``, the nested ``{"error": {...}}`` of vLLM, SGLang and Dynamo's
generate route, ``{"error": "text"}`` from authentication and system servers, plain text, empty bodies, and the HTML of
proxies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from dynamo_tito._errors import (
    BadRequestError,
    EngineError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnauthorizedError,
    UnsupportedParameterError,
    UnsupportedRouteError,
)
from dynamo_tito._http.secrets import hidden

_MESSAGE_CHARACTERS = 500
# The part of a page that is searched for a title; the search is quadratic in it.
_HEAD_CHARACTERS = 2000
# Most nested envelopes around a message.
_ENVELOPES = 4

# A 503 with one of these never reached an engine.
_NOT_STARTED = (
    "generation is paused",  # vLLM, between pause and resume
    "not ready to serve requests yet",  # Dynamo, no worker in rotation
    "the request queue is full",  # SGLang, --max-queued-requests
)

# Messages about an unknown parameter, unlike those about a wrong value.
_UNSUPPORTED = re.compile(
    r"unsupported parameter|unknown field `|extra inputs are not permitted|extra_forbidden|unknown keys? ",
    re.IGNORECASE,
)
_HTML = re.compile(r"\s*<(!doctype|html)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

_CLASSES: dict[int, type[ServerError]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    405: NotFoundError,
    407: UnauthorizedError,
    408: OverloadedError,
    429: OverloadedError,
    499: EngineError,
    501: UnsupportedRouteError,
    503: OverloadedError,
}


def error_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    request_id: str | None = None,
    secrets: tuple[str, ...] = (),
    credentials: bool | None = None,
) -> ServerError:
    """The error that an answer with this status is.

    Args:
        status: the HTTP status.
        headers: the answer's headers, names in lower case.
        body: the part of the body that was read.
        request_id: the id the request was sent with.
        secrets: masked in the error.
        credentials: whether any were sent; None if that is not known.
    """
    document = _document(body)
    message = hidden(message_of(body, document), secrets)
    kind = _class(status, message)
    text = message or _reason(status)
    if status == 499:
        text = f"the engine cancelled the request: {text}"
    elif status == 401 and credentials is not None:
        sent = "the credentials that were sent are not accepted" if credentials else "no credentials were sent"
        text = f"{text}; {sent} (api_key=)"
    elif 300 <= status < 400:
        text = f"{text}; redirects are not followed"
    return kind(
        f"HTTP {status}: {text}",
        status=status,
        body=hidden(body.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape"),
        request_id=request_id_of(headers, body, secrets) or request_id,
        retryable=was_not_started(status, message),
    )


def class_of_body(body: bytes) -> type[ServerError]:
    """The class of an error that has no status but the one that its body names, if any."""
    document = _document(body)
    inner = document.get("error") if isinstance(document, Mapping) else None
    codes = [part.get("code") for part in (inner, document) if isinstance(part, Mapping)]
    code = next((code for code in codes if isinstance(code, int) and 400 <= code < 600), None)
    return ServerError if code is None else _class(code, message_of(body, document))


def request_id_of(headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...] = ()) -> str | None:
    """The id that the server gives for the request, if any."""
    found = headers.get("x-request-id") or _text(_document(body), "request_id")
    return found and hidden(found, secrets)


def was_not_started(status: int, message: str) -> bool:
    """Whether this answer says that nothing was sampled and the same request may succeed later."""
    return status == 429 or (status == 503 and any(marker in message.lower() for marker in _NOT_STARTED))


def message_of(body: bytes, document: Any = None) -> str:
    """The message in any envelope, as one line; empty if there is none."""
    message = _message(document if document is not None else _document(body))
    if not message:
        text = body.decode("utf-8", "replace")
        if _HTML.match(text):
            title = _TITLE.search(text[:_HEAD_CHARACTERS])
            message = f"an HTML page, probably of a proxy: {title.group(1) if title else 'untitled'}"
        else:
            message = text
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"


def _class(status: int, message: str) -> type[ServerError]:
    if status == 403 and "endpoints are disabled" in message:
        return NotFoundError  # vLLM >= 0.32 without --enable-scale-out; older ones answer 404
    if status in _CLASSES:
        return _CLASSES[status]
    if 400 <= status < 500:
        return UnsupportedParameterError if _UNSUPPORTED.search(message) else BadRequestError
    return EngineError if status >= 500 else ServerError


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _message(document: Any) -> str:
    for _ in range(_ENVELOPES):
        if not isinstance(document, Mapping) or not isinstance(document.get("error"), Mapping):
            break
        document = document["error"]
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        return ""
    parts = [document.get(name) for name in ("error", "message", "detail")]
    try:
        return ": ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
    except RecursionError:
        return ""


def _text(document: Any, key: str) -> str | None:
    value = document.get(key) if isinstance(document, Mapping) else None
    return value if isinstance(value, str) else None


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no explanation"
