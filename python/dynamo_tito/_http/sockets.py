"""Whether an idle socket can be reused."""

from __future__ import annotations

import select
from typing import Protocol


class HasFileno(Protocol):
    """A socket, or what event loops hand out for one."""

    def fileno(self) -> int:
        """Its descriptor; negative once it is closed."""


def readable(connection: HasFileno | None) -> bool:
    """Whether an idle socket is readable: its end, or data that no request asked for."""
    if connection is None or connection.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where select takes descriptors of any size
        return bool(select.select([connection.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
