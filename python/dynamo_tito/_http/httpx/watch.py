"""Connections that notice bytes which nobody asked for, and headers without an end.

A server that sends more than it announced leaves the rest in the buffer of a connection that goes back to its pool. It
would be the beginning of the next answer, or, if someone means harm, all of it. httpcore does not look, so the sockets
below it do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_tito._http.base import check_head
from dynamo_tito._http.sockets import HasFileno, readable

if TYPE_CHECKING:
    from dynamo_tito._config import Limits


class Watched:
    """What the stream of a connection remembers between a request and its answer."""

    _asked = True
    _last = b""
    _surplus = False
    _heard: int | None = None

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def saw_write(self) -> None:
        """A request, or a piece of one, was sent; no answer to it can have come yet."""
        self._asked = False
        self._heard = 0

    def will_read(self) -> None:
        """Bytes are wanted. If all that have come are still no whole head, there may be too many of them."""
        if self._heard is not None:
            check_head(self._heard, self._limits)

    def saw_read(self, data: bytes) -> None:
        """Bytes came."""
        self._asked = True
        self._last = data
        if self._heard is not None:
            self._heard += len(data)

    def saw_head(self) -> None:
        """The headers of the answer have come."""
        self._heard = None

    @property
    def unsolicited(self) -> bool:
        """Whether an answer that is there now was there before its request."""
        return not self._asked

    def ends_with(self, chunk: bytes) -> None:
        """The body is complete with this chunk. If more came with it, the connection is not used again."""
        self._surplus = not self._last.endswith(chunk)
        self._last = b""

    def spoken_for(self, connection: HasFileno | None) -> bool:
        """Whether an idle connection must not be used again."""
        return self._surplus or readable(connection)
