"""Connections that notice bytes which nobody asked for.

A server that sends more than it announced leaves the rest in the buffer of a connection that goes back to its pool. It
would be the beginning of the next answer, or, if someone means harm, all of it. httpcore does not look, so the sockets
below it do.
"""

from __future__ import annotations

from dynamo_tito._transports.sockets import HasFileno, readable


class Watched:
    """What the stream of a connection remembers between a request and its answer."""

    _asked = True
    _last = b""
    _surplus = False

    def saw_write(self) -> None:
        """A request, or a piece of one, was sent; no answer to it can have come yet."""
        self._asked = False

    def saw_read(self, data: bytes) -> None:
        """Bytes came."""
        self._asked = True
        self._last = data

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
