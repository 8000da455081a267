"""How long a prompt may be, asked once per model.

vLLM and SGLang say ``max_model_len`` in ``/v1/models``, Dynamo says ``context_window``. Dynamo's frontend passes
overlong prompts on to the engine, so the client has to look.
"""

from __future__ import annotations

import json
import time
from typing import Any

from ._config import PREFLIGHT_AGAIN
from ._errors import OverlongPromptError

PATH = "/v1/models"


class PromptLimits:
    """What is known about one server's models."""

    __slots__ = ("_known", "_not_before")

    def __init__(self) -> None:
        self._known: dict[str | None, int | None] = {}
        self._not_before: dict[str | None, float] = {}

    def must_ask(self, model: str | None) -> bool:
        """Whether the server has to be asked now: nothing is known, and the last failure is some time ago."""
        return model not in self._known and time.monotonic() >= self._not_before.get(model, 0.0)

    def learn(self, model: str | None, body: bytes) -> None:
        """Take what ``/v1/models`` answered. A model that is not listed (yet) is asked for again later."""
        cards = _cards(body)
        if model is None:
            named = cards if len(cards) == 1 else []
        else:
            named = [card for card in cards if card.get("id") == model]
        if named:
            self._known[model] = limit_of(named[0])
        else:
            self.failed(model)

    def failed(self, model: str | None) -> None:
        """Remember for a while that asking did not help."""
        self._not_before[model] = time.monotonic() + PREFLIGHT_AGAIN

    def check(self, model: str | None, prompt_len: int) -> None:
        """Raise OverlongPromptError if the prompt is known not to fit."""
        limit = self._known.get(model)
        if limit is not None and prompt_len > limit:
            raise OverlongPromptError(prompt_len, limit)


def _cards(body: bytes) -> list[dict[str, Any]]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    data = document.get("data") if isinstance(document, dict) else None
    return [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []


def limit_of(card: dict[str, Any]) -> int | None:
    """The model's length; 0 and null are how servers say that they do not know."""
    for key in ("max_model_len", "context_window"):
        value = card.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
