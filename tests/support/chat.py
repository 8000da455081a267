"""A renderer of the embedded engine's chat template, as a user would write one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo_tito.simulator.tokenizer import Tokenizer


@dataclass(frozen=True)
class Tokens:
    token_ids: list[int]


@dataclass(frozen=True)
class Call:
    name: str | None
    arguments: dict[str, Any] | str | None
    status: str


@dataclass(frozen=True)
class Said:
    content: str
    reasoning_content: str | None = None
    tool_calls: Sequence[Call] = field(default=())


class ChatRenderer:
    """Renders like the engine's template. Completions name tools by what their tokens leave as a remainder."""

    def __init__(self, vocab_size: int = 32_000, *, closes: bool = True) -> None:
        self.tokenizer = Tokenizer(vocab_size)
        self.end = self.tokenizer.special["<|im_end|>"]
        #: Whether it closes a turn that was cut by length; one that does not cannot go on from there.
        self.closes = closes
        self.asked: list[str] = []

    def render(
        self, messages: list[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> Tokens:
        self.asked.append("render")
        return Tokens(self.tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt))

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Any],
        *,
        tools: list[Any] | None = None,
    ) -> Tokens | None:
        self.asked.append("bridge")
        added = self.added(previous_completion_ids, new_messages)
        return None if added is None else Tokens([*previous_prompt_ids, *previous_completion_ids, *added])

    def added(self, completion: list[int], messages: list[Any]) -> list[int] | None:
        close = [] if completion[-1:] == [self.end] else [self.end]
        if close and not self.closes:
            return None
        return [*close, *self.tokenizer.encode("\n"), *self.tokenizer.apply_chat_template(messages)]

    def parse_response(
        self, token_ids: list[int], *, tools: list[Any] | None = None, prompt_ids: list[int] | None = None
    ) -> Said:
        assert prompt_ids
        ids = [token for token in token_ids if token != self.end]
        kinds = {1: "ok", 2: "invalid_json"}
        calls = [Call("look", {"token": token}, kinds[token % 3]) for token in ids[:2] if tools and token % 3 in kinds]
        return Said(self.tokenizer.decode(ids), tool_calls=calls)

    def get_stop_token_ids(self) -> list[int]:
        return [self.end]


class ShortRenderer(ChatRenderer):
    """The same, without handing the conversation over and back."""

    def extension(
        self, previous_completion_ids: list[int], new_messages: list[Any], *, tools: list[Any] | None = None
    ) -> list[int] | None:
        self.asked.append("extension")
        return self.added(previous_completion_ids, new_messages)
