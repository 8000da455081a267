"""What administration changes on an embedded engine: whether it generates, and with which weights."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TypeAlias

__all__ = ["Admin", "PauseMode"]

PauseMode: TypeAlias = Literal["keep", "wait", "abort"]


class Admin:
    """Pause state, weight version and loaded adapters of one worker."""

    def __init__(self) -> None:
        self.paused: PauseMode | None = None
        #: What the weights are: the version, or where they came from if nobody named one. Sampling depends on it.
        self.weights = "default"
        self.version: Any = "default"
        #: Whether anybody ever named a version.
        self.version_declared = False
        self.cache_flushes = 0
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
        names = ("weights", "version", "version_declared", "cache_flushes", "weight_group", "updating")
        return {name: getattr(self, name) for name in names} | {"adapters": dict(self.adapters)}

    async def admitted(self) -> None:
        """Wait until generation is not paused."""
        while self.paused is not None:
            await self._resumed.wait()

    def pause(self, mode: PauseMode) -> None:
        """Hold new requests from now on."""
        self.paused = mode
        self._resumed.clear()

    def resume(self) -> None:
        """Let them go."""
        self.paused = None
        self._resumed.set()

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
        self.weights = f"{source}#{version}" if version is None else str(version)
        if version is not None:
            self.name_version(version)
        self.cache_flushes += flush

    def name_version(self, version: Any) -> None:
        """Report this version from now on."""
        self.version, self.version_declared = version, True
