"""Receives the rest of a body where it will be decoded, past the parser of the HTTP library."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo_tito._native import Spare

# Most bytes of one connection per iteration of the event loop; everything else waits meanwhile.
_MAX_STEP = 256 << 10


async def receive_into(spare: Spare, transport: asyncio.Transport) -> int:
    """Receive from a connection until ``spare`` is full or the connection ends.

    The kernel writes into it, without the two copies that an HTTP library makes of every byte. Other events go to
    the connection's own protocol, which is restored afterwards, also if this is cancelled.

    Returns:
        How many bytes came.

    Raises:
        ConnectionError: the connection broke.
    """
    receiver = _Receiving(spare, transport)
    try:
        transport.set_protocol(receiver)
        await receiver.ended
    finally:
        receiver.hand_back()
    if receiver.lost is not None:
        # A new error: asyncio's would hold this frame, and so the memory, until it is collected.
        raise ConnectionError(str(receiver.lost))
    return receiver.received


class _Receiving(asyncio.BufferedProtocol):
    """The protocol of a connection while a body arrives."""

    def __init__(self, spare: Spare, transport: asyncio.Transport) -> None:
        self._view = memoryview(spare)
        self._lent = self._view[:0]
        self._transport = transport
        self._owner: asyncio.BaseProtocol | None = transport.get_protocol()
        self.received = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Not set on the future: after a cancellation asyncio would log an exception that was never retrieved.
        self.lost: Exception | None = None

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See asyncio."""
        self._lent = self._view[self.received : self.received + _MAX_STEP]
        return self._lent

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        self.received += nbytes
        if self.received == len(self._view):
            self._return()
            self._end()

    def eof_received(self) -> bool | None:
        """See asyncio."""
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
        """See asyncio: the request may still be written while its answer arrives."""
        if self._owner is not None:
            self._owner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._owner is not None:
            self._owner.resume_writing()

    def hand_back(self) -> None:
        """Restore the connection's own protocol, and release its views."""
        self._return()
        try:
            self._lent.release()  # frames of an error may hold it
        finally:
            self._view.release()

    def _return(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            self._transport.set_protocol(owner)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
