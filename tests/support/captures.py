"""The recorded answers of a real Dynamo 1.6.1 frontend. ``tests/cases/captures.jsonl`` has what each decodes to."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "captures"


@cache
def index() -> dict[str, dict[str, Any]]:
    """The request behind each answer, and its HTTP status."""
    entries: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
    return entries
