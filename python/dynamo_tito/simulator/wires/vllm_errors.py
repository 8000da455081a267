"""The errors of vLLM's server, with its messages and envelopes.

Facts: bodies of vLLM 0.32.0 and 0.33.0; the handlers under `vllm/entrypoints/serve/exception_handling` of 0.32.0.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from dynamo_tito.simulator.calls import EngineError

__all__ = ["bad_field", "bad_request", "envelope", "http_error", "invalid", "late", "worker_failed"]

_TYPES = {
    400: "BadRequestError", 404: "NotFoundError", 422: "UnprocessableEntityError", 500: "InternalServerError", 501:
    "NotImplementedError", 503: "ServiceUnavailableError",
}  # fmt: skip


def envelope(error: EngineError) -> dict[str, Any]:
    """`{"error": {...}}`; what FastAPI refuses has the phrase of its status for a type."""
    status = error.status
    kind = _TYPES.get(status, "Error")
    if error.kind == "http":
        kind = HTTPStatus(status).phrase
    elif error.kind == "user":
        kind = "InvalidUserInput"
    message = error.message or "injected fault"
    return {"error": {"message": message, "type": kind, "param": error.param, "code": status}}


def http_error(status: int, message: str) -> EngineError:
    """What a route of the server refuses by itself."""
    return EngineError(status, message, kind="http")


def bad_request(message: str, param: str | None = None, value: Any = None) -> EngineError:
    """400 of the engine's own checks, which name the parameter and often its value."""
    details = [f"parameter={param}"] if param is not None else []
    if value is not None:
        details.append(f"value={value}")
    return EngineError(400, f"{message} ({', '.join(details)})" if details else message, param=param)


def late(message: str, param: str | None = None, value: Any = None) -> EngineError:
    """`bad_request` of the engine, which looks at a request when the server has begun to stream the answer."""
    error = bad_request(message, param, value)
    error.kind = "late"
    return error


def bad_field(kind: str, where: str, said: str, value: Any, context: dict[str, Any] | None = None) -> str:
    """One line of a validation error: pydantic's account of a field."""
    line: dict[str, Any] = {"type": kind, "loc": where, "msg": said, "input": _brief(value)}
    if context is not None:
        line["ctx"] = context
    return str(line)


def invalid(*lines: str, param: str | None) -> EngineError:
    """400 that lists what is wrong with the body."""
    label = "error" if len(lines) == 1 else "errors"
    text = "".join(f"\n  {line}" for line in lines)
    return EngineError(400, f"{len(lines)} validation {label}:{text}", kind="http", param=param)


def worker_failed(method: str, message: str, *, unhandled: bool = True) -> EngineError:
    """500 of an exception in the worker process; one that no handler expects costs the connection too."""
    text = (
        f"Call to {method} method failed: Worker failed with error '{message}', "
        "please check the stack trace above for the root cause"
    )
    return EngineError(500, text, kind="unhandled" if unhandled else "engine")


def _brief(value: Any) -> str:
    """As vLLM shortens the input of a validation error."""
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)
