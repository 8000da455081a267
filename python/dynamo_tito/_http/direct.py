"""The rest of a body, received where it will be decoded, past the parser of the HTTP library."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo_tito._native import Room

# Of one connection in one turn of the loop: the others, and everything else on it, wait for as long as that takes.
_AT_ONCE = 256 << 10


async def receive_into(room: Room, transport: asyncio.Transport) -> int:
    """Receive from a connection until ``room`` is full or the connection is at its end.

    The kernel writes into the room, which spares the two copies that an HTTP library makes of every byte. The
    connection's own protocol hears of everything else, and has it back afterwards, also where this is cancelled.

    Returns:
        How many bytes came.

    Raises:
        ConnectionError: the connection broke.
    """
    receiver = _IntoRoom(room, transport)
    try:
        transport.set_protocol(receiver)
        await receiver.ended
    finally:
        receiver.hand_back()
    if receiver.lost is not None:
        # A new one: the other would keep, with this frame, the room until it is collected.
        raise ConnectionError(str(receiver.lost))
    return receiver.received


class _IntoRoom(asyncio.BufferedProtocol):
    """The protocol of a connection while a body comes."""

    def __init__(self, room: Room, transport: asyncio.Transport) -> None:
        self._view = memoryview(room)
        self._lent = self._view[:0]
        self._transport = transport
        self._owner: asyncio.BaseProtocol | None = transport.get_protocol()
        self.received = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Not the future's: a caller who is cancelled never asks for it, and asyncio would complain.
        self.lost: Exception | None = None

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See asyncio."""
        self._lent = self._view[self.received : self.received + _AT_ONCE]
        return self._lent

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        self.received += nbytes
        if self.received == len(self._view):
            self._return()
            self._end()

    def eof_received(self) -> bool | None:
        """See asyncio."""
        # A stream's protocol is one or the other.
        owner = self._owner
        return owner.eof_received() if isinstance(owner, (asyncio.Protocol, asyncio.BufferedProtocol)) else None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.connection_lost(exc)
        self.lost = exc
        self._end()

    def pause_writing(self) -> None:
        """See asyncio: the request may still be on its way while its answer comes."""
        if self._owner is not None:
            self._owner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._owner is not None:
            self._owner.resume_writing()

    def hand_back(self) -> None:
        """Leave the connection to its own protocol, and the room to its body."""
        self._return()
        try:
            self._lent.release()  # also in the frames of the error that ended it
        finally:
            self._view.release()

    def _return(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            self._transport.set_protocol(owner)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
