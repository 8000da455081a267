"""Errors of this library as those of the openai library, which callers of ``renderers`` catch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dynamo_tito._errors import OverlongPromptError, ServerError, TransportError

from ._frameworks import framework

_BY_STATUS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


@contextlib.contextmanager
def openai_errors(url: str) -> Iterator[None]:
    """Raise what an ``AsyncOpenAI`` raises for the same answer, and renderers' error for a prompt that is too long."""
    try:
        yield
    except OverlongPromptError as error:
        theirs = framework("renderers.client", extra="renderers").OverlongPromptError
        raise theirs(prompt_len=error.prompt_len, max_prompt_len=error.max_prompt_len) from error
    except ServerError as error:
        raise _status_error(error, url) from error
    except TransportError as error:
        openai, request = _modules(url)
        if str(error).startswith("the deadline passed"):
            raise openai.APITimeoutError(request=request) from error
        raise openai.APIConnectionError(message=str(error), request=request) from error


def _status_error(error: ServerError, url: str) -> Exception:
    openai, request = _modules(url)
    import httpx  # noqa: PLC0415 - only an error needs it

    status = error.status or 500
    headers = {} if error.request_id is None else {"x-request-id": error.request_id}
    response = httpx.Response(status, content=error.body.encode(), headers=headers, request=request)
    name = _BY_STATUS.get(status, "InternalServerError" if status >= 500 else "APIStatusError")
    kind: type[Exception] = getattr(openai, name)
    return kind(f"Error code: {status} - {error.body or error}", response=response, body=error.body)  # type: ignore[call-arg]


def _modules(url: str) -> tuple[Any, Any]:
    import httpx  # noqa: PLC0415 - only an error needs it

    return framework("openai", extra="renderers"), httpx.Request("POST", url)
