"""Many workers as one: membership, changes of all workers, checks of their weights."""

from __future__ import annotations

from .canary import Canary
from .fleet import Fleet
from .watch import WatchReport

__all__ = ["Canary", "Fleet", "WatchReport"]
