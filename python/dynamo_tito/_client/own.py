"""Which requests are this client's own, so that it aborts no others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from dynamo_tito._requests import Abort, aborts
from dynamo_tito._requests.abort import PREFIXES

if TYPE_CHECKING:
    from dynamo_tito._requests import Request

_REMEMBERED = 1 << 16
"""Requests whose ids are kept."""


class Sent(NamedTuple):
    """A request: how it was sent, and the engine's id of it."""

    transport: str
    engine_id: str


class OwnRequests:
    """The requests of one client that an engine knows under an id of the client's choice. Threads may share it."""

    __slots__ = ("_lock", "_sent")

    def __init__(self) -> None:
        self._sent: dict[str, Sent] = {}
        self._lock = threading.Lock()

    def note(self, request: Request) -> None:
        """A request is about to be sent."""
        engine_id = request.engine_id
        if engine_id is None:
            return
        with self._lock:
            for name in {engine_id, request.call.request_id or engine_id}:
                self._sent.pop(name, None)
                self._sent[name] = Sent(request.spec.transport, engine_id)
            while len(self._sent) > _REMEMBERED:
                del self._sent[next(iter(self._sent))]

    def aborts(self, request_id: str) -> list[Abort]:
        """The routes to try, to abort a request.

        Args:
            request_id: the id that it was sent with, or the one that its answer names.

        Raises:
            ValueError: this client sent none of this id, or the server would abort another one with it.
        """
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, not {type(request_id).__name__}")
        bare = next((request_id.removeprefix(prefix) for prefix in PREFIXES if request_id.startswith(prefix)), "")
        sent = self._sent.get(request_id) or self._sent.get(bare)
        if sent is None:
            raise ValueError(
                f"no request {request_id!r} was sent by this client with an id: give generate or stream a request_id, "
                "or read the stream's"
            )
        if sent.transport in ("sglang_generate", "sglang_chat"):
            with self._lock:
                others = {other.engine_id for other in self._sent.values()} - {sent.engine_id}
            longer = min((other for other in others if other.startswith(sent.engine_id)), default=None)
            if longer is not None:
                raise ValueError(
                    f"SGLang aborts every request whose id begins with {sent.engine_id!r}, and so {longer!r} too: give "
                    "requests ids of which none begins with another"
                )
        return aborts(*sent)
