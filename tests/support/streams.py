"""Pairs of answers to one request, streamed and in one piece, as ``tools/record_streams.py`` got them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "streams"


@dataclass(frozen=True)
class Pair:
    """One request's two answers.

    Attributes:
        name: such as ``"vllm-0.32.0/generate_n2"``.
        entry: its line of index.json; the keys are those of ``Case`` in tools/record_streams.py.
    """

    name: str
    entry: dict[str, Any]

    @property
    def stream(self) -> bytes:
        """The body of the streamed answer."""
        return (FOLDER / f"{self.name}.sse").read_bytes()

    @property
    def whole(self) -> bytes | None:
        """The body of the answer in one piece; None where the server gave none."""
        path = FOLDER / f"{self.name}.json"
        return path.read_bytes() if path.exists() else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The keywords that decode both, ``wire`` included."""
        return {"wire": self.entry["wire"], **self.entry["decode"]}

    @property
    def lacks(self) -> list[str]:
        """Attributes of a ``Completion`` that the stream cannot have."""
        found: list[str] = self.entry.get("lacks", [])
        return found


@cache
def pairs() -> dict[str, Pair]:
    """All of them, by name."""
    index: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
    return {name: Pair(name, entry) for name, entry in index.items()}
