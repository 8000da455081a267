"""What a server says of its models: how long a prompt may be, and which names are adapters. Asked once per model.

vLLM and SGLang say ``max_model_len`` in ``/v1/models``, Dynamo says ``context_window``. An adapter's card has a
``parent`` and no length (vllm 0.33 ``openai/models/serving.py``, sglang 0.5.23 ``http_server.py``): its parent has one.
Dynamo's frontend passes overlong prompts on to the engine, so the client has to look.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from ._config import PREFLIGHT_AGAIN
from ._errors import NotFoundError, OverlongPromptError

PATH = "/v1/models"

_LISTED = 8
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class Card:
    """One model.

    Attributes:
        length: its context in tokens; None where the server does not say.
        adapter: whether it is one.
    """

    length: int | None
    adapter: bool


class ModelCards:
    """What is known about one server's models."""

    __slots__ = ("_known", "_names", "_not_before")

    def __init__(self) -> None:
        self._known: dict[str | None, Card] = {}
        self._names: list[str] = []
        self._not_before: dict[str | None, float] = {}

    def knows(self, model: str | None) -> bool:
        """Whether the server has been asked and has said."""
        return model in self._known

    def must_ask(self, model: str | None) -> bool:
        """Whether the server has to be asked now: nothing is known, and the last failure is some time ago."""
        return model not in self._known and time.monotonic() >= self._not_before.get(model, 0.0)

    def learn(self, model: str | None, body: bytes) -> None:
        """Take what ``/v1/models`` answered. A model that is not listed (yet) is asked for again later."""
        cards = _cards(body)
        self._names = [str(card.get("id")) for card in cards]
        if model is None:
            base = [card for card in cards if not card.get("parent")]
            named = base if len(base) == 1 else []
        else:
            named = [card for card in cards if card.get("id") == model]
        if not named:
            self.failed(model)
            return
        parent = named[0].get("parent")
        chain = [named[0], *(card for card in cards if parent and card.get("id") == parent)]
        lengths = [length for card in chain if (length := limit_of(card)) is not None]
        self._known[model] = Card(lengths[0] if lengths else None, bool(parent))

    def failed(self, model: str | None) -> None:
        """Remember for a while that asking did not help."""
        self._not_before[model] = time.monotonic() + PREFLIGHT_AGAIN

    def unlisted(self, model: str | None) -> None:
        """The server has no list of models: the name is sent as an adapter's, for the server to take or to refuse."""
        self._known[model] = Card(None, adapter=True)

    def is_adapter(self, model: str) -> bool:
        """Whether the model is an adapter; NotFoundError where the server does not list it."""
        card = self._known.get(model)
        if card is None:
            names = ", ".join(self._names[:_LISTED]) or "no model"
            raise NotFoundError(
                f"{PATH} lists {names}, not {model!r}: this route names no model, and whether {model!r} is an adapter "
                "decides what is sent; name a listed one, model=None, or extra_body={'lora_path': name}"
            )
        return card.adapter

    def check(self, model: str | None, prompt_len: int, reserved: int) -> None:
        """Raise OverlongPromptError if the prompt is known not to fit.

        Args:
            model: the model's name.
            prompt_len: tokens of the prompt.
            reserved: tokens of the context that the server leaves to the completion.
        """
        card = self._known.get(model)
        if card is not None and card.length is not None and prompt_len > card.length - reserved:
            raise OverlongPromptError(prompt_len, max(card.length - reserved, 0))


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
