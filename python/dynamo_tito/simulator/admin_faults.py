"""Administration whose answer is not what happened: a table of answers per backend.

Each is a kind of `Fault`; without a path it fits the routes that `faults.ADMIN_PATHS` has for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .calls import EngineError
from .config import Backend
from .core import Core
from .encode import dumps
from .faults import Fault, FaultKind
from .response import Response

__all__ = ["ADMIN_FAULTS", "AdminFault"]

Answer: TypeAlias = tuple[int, dict[str, object] | bytes]


@dataclass(frozen=True, slots=True)
class AdminFault:
    """The state that an administration request changes, and its answer."""

    #: The parts of the state that the request changes; the others are as before it.
    keeps: frozenset[str] = frozenset()
    #: The answer of each backend; None: that of success.
    answers: Mapping[Backend, Answer] | None = None

    def play(self, engine: Core, before: Mapping[str, object], response: Response, fault: Fault) -> Response:
        """Restore the rest of the state, and answer.

        Raises:
            EngineError: 500, this backend has no such answer.
        """
        for name, value in before.items():
            if name not in self.keeps:
                setattr(engine.admin, name, value)
        if self.answers is None:
            return response
        backend = engine.config.backend
        if backend not in self.answers:
            raise EngineError(500, f"the embedded engine cannot play {fault.kind} as {backend}")
        status, body = self.answers[backend]
        if isinstance(body, bytes):
            return Response(status, body, "text/plain; charset=utf-8")
        return Response(status, dumps(body), hangs_up=status == 500)


def _vllm_error(status: int, kind: str, message: str) -> Answer:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


_UNFLUSHED = (
    "Weights were updated, but the cache was not flushed because requests are still running or queued. "
    "Retract or finish them, then call /flush_cache."
)
_MISSING = "Loading lora adapter failed: No adapter found for the given path"
_WORKER = (
    "Call to collective_rpc method failed: Worker failed with error 'injected fault', "
    "please check the stack trace above for the root cause"
)

ADMIN_FAULTS: Mapping[FaultKind, AdminFault] = {
    "did_nothing": AdminFault(),
    "refused_reload": AdminFault(
        answers={
            "vllm": _vllm_error(404, "NotFoundError", _MISSING),
            "prime": _vllm_error(404, "NotFoundError", _MISSING),
            "sglang": (400, {"success": False, "error_message": _MISSING, "loaded_adapters": {}}),
            "dynamo": (200, {"status": "error", "message": _MISSING}),
        }
    ),
    "updated_not_flushed": AdminFault(
        # The label stays that of the weights before (sglang#14062).
        keeps=frozenset(("weights",)),
        answers={"sglang": (400, {"success": False, "message": _UNFLUSHED})},
    ),
    "flush_refused": AdminFault(
        answers={
            "vllm": (200, {"success": False}),
            "prime": (200, {"success": False}),
            "sglang": (400, b"Cache not flushed because there are pending requests.\n"),
            "dynamo": (200, {"status": "error", "message": "Cache not flushed"}),
        }
    ),
    "session_left_open": AdminFault(answers={"vllm": _vllm_error(500, "InternalServerError", _WORKER)}),
}
