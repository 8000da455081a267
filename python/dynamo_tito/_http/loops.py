"""What is kept for each event loop."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any


def without_closed(kept: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any]) -> None:
    """Let go of what belongs to loops that are closed: locks keep their loop alive, and so their own key."""
    for reference in kept.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            kept.pop(loop, None)
