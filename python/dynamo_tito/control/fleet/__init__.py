"""Many workers as one: who they are, what is changed on all of them, and how their weights are looked at."""

from __future__ import annotations

from .canary import Canary
from .fleet import Fleet
from .watch import WatchReport

__all__ = ["Canary", "Fleet", "WatchReport"]
