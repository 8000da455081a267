"""Everything this library raises on purpose.

::

    TitoError
    ├── DecodeError (ValueError)            a response that breaks a check
    │   ├── MalformedBodyError              not one unambiguous JSON document
    │   ├── MissingFieldError               a field that had to be there is not
    │   ├── AlignmentError                  counts or identities that disagree
    │   └── RoutedExpertsError              routed experts that do not add up
    ├── OverlongPromptError (ValueError)    a prompt that the model cannot hold
    ├── DriftError (ValueError)             a conversation that does not go on from the tokens held
    ├── ServerError                         the server answered, and the answer is an error
    │   ├── BadRequestError                 the request is wrong; sending it again will not help
    │   │   └── UnsupportedParameterError   this server does not know a parameter of the request
    │   ├── UnauthorizedError               no valid credentials
    │   ├── NotFoundError                   no such route or model
    │   ├── UnsupportedRouteError           this server has not implemented what was asked
    │   ├── OverloadedError                 no capacity now: try later, or elsewhere
    │   └── EngineError                     the engine failed while it served the request
    ├── TransportError                      no complete answer came back
    └── AdminError                          a control operation failed on at least one worker

A wrong argument is a plain ``TypeError`` or ``ValueError``, raised before anything is sent or parsed.

Every class pickles and copies with its attributes, so that an error crosses process borders whole.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

TransportPhase: TypeAlias = Literal["connect", "send", "headers", "body"]

_MAX_BODY = 4096
"""Bytes of a server's answer that a :class:`ServerError` keeps."""

_MAX_MESSAGE = 500
"""Characters of a server's own words that become the message; the rest is in the body."""


class TitoError(Exception):
    """The base of every error this library raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which knows nothing of keyword-only attributes.
        return _bare, (type(self), self.args), self.__dict__.copy()


def _bare(cls: type[TitoError], args: tuple[object, ...]) -> TitoError:
    """An instance with its ``args`` only; unpickling then restores the attributes."""
    return cls.__new__(cls, *args)


class DecodeError(TitoError, ValueError):
    """A response body that cannot be turned into arrays without guessing.

    ``str(error)`` is one line: what was found, what was expected, and where.

    Attributes:
        kind: A stable word for programs, such as ``"truncated"``, ``"count"`` or ``"duplicate_key"``.
        path: Where in the document, such as ``"nvext.engine_data.completion_logprobs[3]"``;
            empty for the document itself.
        offset: Where in the body, in bytes from its beginning; None where nothing is there to point at.
    """

    kind: str
    path: str
    offset: int | None

    def __init__(self, message: str, *, kind: str, path: str = "", offset: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.path = path
        self.offset = offset


class MalformedBodyError(DecodeError):
    """The body is not the one JSON document that this wire allows."""


class MissingFieldError(DecodeError):
    """A required field is absent, or has no log-probability."""


class AlignmentError(DecodeError):
    """Two parts of the body disagree: counts that differ, or an entry that names another token."""


class RoutedExpertsError(DecodeError):
    """Routed experts whose container, base64, size, start or row count does not add up."""


class OverlongPromptError(TitoError, ValueError):
    """A prompt longer than the model can hold, found before it was sent.

    Attributes:
        prompt_len: Tokens of the prompt.
        max_prompt_len: Tokens that would have been accepted.
    """

    prompt_len: int
    max_prompt_len: int

    def __init__(self, prompt_len: int, max_prompt_len: int) -> None:
        super().__init__(f"the prompt has {prompt_len} tokens, at most {max_prompt_len} fit")
        self.prompt_len = prompt_len
        self.max_prompt_len = max_prompt_len


class DriftError(TitoError, ValueError):
    """A conversation that does not go on, token by token, from what a rollout holds.

    Attributes:
        kind: ``"prefix"`` (rendered again, it has other tokens), ``"unclosed"`` (the same after a completion that was
            cut by length), ``"messages"`` (other messages than those recorded), or ``"ambiguous"`` (several turns
            recorded the same messages).
        token: position of the first token that differs.
        message: number of the message that it belongs to, from 0.
    """

    kind: str
    token: int
    message: int

    def __init__(self, text: str, *, kind: str, token: int, message: int) -> None:
        super().__init__(text)
        self.kind = kind
        self.token = token
        self.message = message


class ServerError(TitoError):
    """The server answered, and the answer is an error.

    ``str(error)`` is what the server said, brought to one line and cut where it rambles.

    Attributes:
        status: The HTTP status; None when the error was found by decoding a body.
        body: The first 4 KiB of the answer, as text.
        request_id: The id under which the server knows the request, if one is known.
        retryable: Whether nothing was sampled and the same request may succeed later or on another server. An engine's
            own failure is not: it may have sampled before it failed.
    """

    status: int | None
    body: str
    request_id: str | None
    retryable: bool

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: bytes = b"",
        request_id: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(_one_line(message))
        self.status = status
        self.body = _text(body)
        self.request_id = request_id
        self.retryable = retryable


class BadRequestError(ServerError):
    """The server refuses the request as it stands; sending it again will not help."""


class UnsupportedParameterError(BadRequestError):
    """The server does not know a parameter of the request."""


class UnauthorizedError(ServerError):
    """The server wants credentials, or other ones."""


class NotFoundError(ServerError):
    """The server has no such route or model."""


class UnsupportedRouteError(ServerError):
    """The server knows the route and has not implemented what was asked of it (501)."""


class OverloadedError(ServerError):
    """The server has no capacity for the request now."""


class EngineError(ServerError):
    """The engine behind the server failed while it worked on the request."""


class TransportError(TitoError):
    """No complete answer came back.

    Attributes:
        phase: How far the exchange got: ``"connect"``, ``"send"``, ``"headers"`` or ``"body"``.
            After ``"connect"`` the server may have worked on the request.
    """

    phase: TransportPhase

    def __init__(self, message: str, *, phase: TransportPhase) -> None:
        super().__init__(message)
        self.phase = phase


class AdminError(TitoError):
    """A control operation failed on at least one worker.

    Attributes:
        results: One result per worker that was asked, successes included.
    """

    results: tuple[Any, ...]

    def __init__(self, message: str, *, results: Iterable[Any] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


def _text(body: bytes) -> str:
    """The beginning of a body as text; a character that the cut would split is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(body[:_MAX_BODY], final=len(body) < _MAX_BODY)


def _one_line(message: str) -> str:
    # More words than characters that may stay: what is behind them is cut anyway.
    line = " ".join(message.split(None, _MAX_MESSAGE)[:_MAX_MESSAGE])
    return line if len(line) <= _MAX_MESSAGE else f"{line[: _MAX_MESSAGE - 1]}…"


def raise_without_cycle(error: BaseException) -> NoReturn:
    """Raise ``error`` instead of the exception that is being handled, so that it can be kept.

    A frame that keeps an error in a local variable and is part of its traceback is a reference cycle. ``raise`` would
    also keep the handled exception, with the frames of its own traceback, as the context.
    """
    try:
        raise error
    finally:
        error.__context__ = None
        del error
