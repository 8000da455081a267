"""What administration changes on an embedded engine: whether it generates, and with which weights."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from .calls import EngineError

__all__ = ["Admin", "PauseMode", "Spoiled"]

PauseMode: TypeAlias = Literal["keep", "wait", "abort"]

Spoiled: TypeAlias = Literal["half", "wrong", "destroy"]
"""The fault of the next load of weights.

``half``: every second tensor keeps the old ones. ``wrong``: others than were asked for are loaded. ``destroy``: the
layers are emptied and the load fails (vLLM), and no request is served any more.
"""

_TENSORS = ("model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight", "model.norm.weight")


class Admin:
    """Pause state, weight version and loaded adapters of one worker."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        #: Called after what concerns requests that are being sampled.
        self._changed = changed
        self.paused: PauseMode | None = None
        #: What the weights are: the version, or their source if no version was named. Sampling depends on it.
        self.weights = "default"
        self.version: Any = "default"
        #: Whether a version was ever named.
        self.version_declared = False
        self.cache_flushes = 0
        #: How often each other cache was emptied: "external", "mm", "encoder".
        self.emptied: Counter[str] = Counter()
        #: Spoils the next load.
        self.spoil: Spoiled | None = None
        #: The layers are empty.
        self.destroyed = False
        #: The weights that every second tensor still has after a half load.
        self.kept = ""
        self.weight_group = False
        #: Between the start and the end of a transfer of weights.
        self.updating = False
        #: Name to source.
        self.adapters: dict[str, str] = {}
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._resumed = asyncio.Event()
        self._resumed.set()

    def state(self) -> dict[str, Any]:
        """What an update or an adapter changes, as it is now."""
        names = (
            "weights", "kept", "destroyed", "version", "version_declared", "cache_flushes", "weight_group", "updating",
        )  # fmt: skip
        copies = {"adapters": dict(self.adapters), "emptied": Counter(self.emptied)}
        return {name: getattr(self, name) for name in names} | copies

    async def admitted(self) -> None:
        """Wait until generation is not paused."""
        while self.paused is not None:
            await self._resumed.wait()

    def pause(self, mode: PauseMode) -> None:
        """Hold new requests from now on."""
        self.paused = mode
        self._resumed.clear()
        self._changed()

    def resume(self) -> None:
        """Continue them."""
        self.paused = None
        self._resumed.set()
        self._changed()

    def landed(self) -> None:
        """One request is done."""
        self.in_flight -= 1
        self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing is being sampled."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    def load(self, version: Any, *, source: str = "", flush: bool = True) -> None:
        """Take new weights; a version of None leaves the one that is reported as it was."""
        spoil, self.spoil = self.spoil, None
        if spoil == "destroy":
            self.destroyed, self.weights = True, "emptied"
            raise EngineError(500, f"Call to collective_rpc method failed: {source} is not a directory")
        old, self.kept, self.destroyed = self.weights, "", False
        self.weights = f"{source}#{version}" if version is None else str(version)
        if spoil == "half":
            self.weights, self.kept = f"half {self.weights}, half {old}", old
        elif spoil == "wrong":
            self.weights = f"wrong {self.weights}"
        if version is not None:
            self.name_version(version)
        self.cache_flushes += flush
        self._changed()

    def checksums(self) -> dict[str, str]:
        """Name of each tensor to a digest that depends on the weights."""
        return {
            name: hashlib.sha256(
                f"{self.kept if self.kept and number % 2 else self.weights} {name}".encode()
            ).hexdigest()
            for number, name in enumerate(_TENSORS)
        }

    def name_version(self, version: Any) -> None:
        """Report this version from now on."""
        self.version, self.version_declared = version, True
        self._changed()
