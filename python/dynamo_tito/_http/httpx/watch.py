"""Connections that detect surplus bytes and headers without an end.

If a server sends more than it announced, the rest stays in the buffer of a pooled connection and becomes the start of
the next answer. httpcore does not check that, so the streams below it do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_tito._http.base import check_head
from dynamo_tito._http.sockets import HasFileno, readable

if TYPE_CHECKING:
    from dynamo_tito._config import Limits


class TracksSurplusBytes:
    """The state of a connection between a request and its answer."""

    _read_since_write = True
    _last = b""
    _surplus = False
    _head_bytes: int | None = None

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def saw_write(self) -> None:
        """A request, or a piece of one, is sent; its answer has not come yet."""
        self._read_since_write = False
        self._head_bytes = 0

    def will_read(self) -> None:
        """Before a read: TransportError if the head is over its limit and still not complete."""
        if self._head_bytes is not None:
            check_head(self._head_bytes, self._limits)

    def saw_read(self, data: bytes) -> None:
        """Bytes arrived."""
        self._read_since_write = True
        self._last = data
        if self._head_bytes is not None:
            self._head_bytes += len(data)

    def saw_head(self) -> None:
        """The headers of the answer are complete."""
        self._head_bytes = None

    @property
    def unsolicited(self) -> bool:
        """Whether the answer arrived before its request was sent."""
        return not self._read_since_write

    def ends_with(self, chunk: bytes) -> None:
        """The body ends with this chunk. If more bytes came with it, the connection is not reused."""
        self._surplus = not self._last.endswith(chunk)
        self._last = b""

    def must_not_reuse(self, connection: HasFileno | None) -> bool:
        """Whether an idle connection must not be used again."""
        return self._surplus or readable(connection)
