"""From messages to the tokens of the next prompt, without touching a token that the engine sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dynamo_tito._client import TitoClient

    from .messages import Message


class Rendered(Protocol):
    """Messages as tokens; ``renderers.RenderedTokens`` is one."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens."""


class ParsedCall(Protocol):
    """One attempt at a tool call, well-formed or not; ``renderers.ParsedToolCall`` is one."""

    @property
    def name(self) -> str | None:
        """The function."""

    @property
    def arguments(self) -> Mapping[str, Any] | str | None:
        """Its arguments, parsed or as JSON."""

    @property
    def status(self) -> str:
        """``"ok"`` for a well-formed call; any other text names the mistake."""


class Parsed(Protocol):
    """A completion as a message; ``renderers.ParsedResponse`` is one."""

    @property
    def content(self) -> str:
        """The text without reasoning and tool calls."""

    @property
    def reasoning_content(self) -> str | None:
        """The reasoning, if there was any."""

    @property
    def tool_calls(self) -> Sequence[ParsedCall]:
        """Every attempt at a call, in order."""


@runtime_checkable
class Renderer(Protocol):
    """A model's chat template as a pair of functions: messages to tokens, and tokens to a message.

    The objects of the ``renderers`` package are renderers as they are, and so is any object with these four methods.

    A renderer may also have ``extension(previous_completion_ids, new_messages, *, tools)`` that returns only the tokens
    that the next prompt adds, or None. It is then asked instead of ``bridge_to_next_turn``, and ``parse_response`` is
    given only the turn's own part of the prompt: the conversation is not handed over and back on every turn.
    """

    def render(
        self, messages: list[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> Any:
        """The tokens (:class:`Rendered`) of a whole conversation."""

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Any],
        *,
        tools: list[Any] | None = None,
    ) -> Any:
        """The next prompt (:class:`Rendered`): both arguments verbatim, then the new messages and a generation prompt.

        None if that is not certain.
        """

    def parse_response(
        self, token_ids: list[int], *, tools: list[Any] | None = None, prompt_ids: list[int] | None = None
    ) -> Any:
        """The completion as a message (:class:`Parsed`)."""

    def get_stop_token_ids(self) -> list[int]:
        """The tokens that end a turn."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class _Text:
    content: str
    reasoning_content: None = None
    tool_calls: tuple[ParsedCall, ...] = ()


class ServerRenderer:
    """A renderer for servers with ``/tokenize`` and ``/detokenize`` (vLLM), for models without one.

    What a turn adds is found by tokenising twice: a stand-in for the assistant's turn with the new messages and a
    generation prompt, and the stand-in alone. The difference, from the token that closes the stand-in on, is what
    follows what the engine sampled. Each of the two is as long as the new messages, however long the conversation is.

    Tool calls are not parsed: a completion is its text. The calls block; :meth:`Rollout.step` makes them in a thread.

    Args:
        client: of the server whose chat template it is.
        stop_token_ids: the tokens that end a turn; at least one.
        chat_template_kwargs: the conversation's, passed on with every request.
    """

    blocking = True
    """Its methods wait for a server."""

    def __init__(
        self,
        client: TitoClient,
        *,
        stop_token_ids: Sequence[int],
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not stop_token_ids:
            raise ValueError("stop_token_ids must name the tokens that end a turn")
        self._client = client
        self._stops = list(stop_token_ids)
        self._template = dict(chat_template_kwargs or {})

    def render(
        self, messages: list[Message], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> Rendered:
        """The whole conversation, tokenised by the server."""
        return _Tokens(self._tokenize(messages, tools, prompt=add_generation_prompt))

    def extension(
        self, previous_completion_ids: list[int], new_messages: list[Message], *, tools: list[Any] | None = None
    ) -> list[int] | None:
        """The tokens that new messages add behind a completion; None where the two tokenisations do not show them."""
        if any(message["role"] == "assistant" for message in new_messages):
            return None
        stand_in = _stand_in(new_messages)
        alone = self._tokenize([stand_in], tools, prompt=False)
        closed = next((n for n in range(len(alone), 0, -1) if alone[n - 1] in self._stops), 0)
        both = self._tokenize([stand_in, *new_messages], tools, prompt=True)
        # Behind its closing token a template may write a line break that the engine, having stopped, did not.
        kept = closed or len(alone)
        if both[:kept] != alone[:kept]:
            return None
        added = both[kept:]
        ended = previous_completion_ids[-1] if previous_completion_ids else None
        if closed:
            close = alone[closed - 1]
            return added if ended in self._stops else [close, *added]
        # The turn ends with the marker of the next one, which the engine has sampled as its stop token.
        if ended in self._stops:
            return added[1:] if added[:1] == [ended] else None
        return added

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: list[int],
        previous_completion_ids: list[int],
        new_messages: list[Message],
        *,
        tools: list[Any] | None = None,
    ) -> Rendered | None:
        """The same behind all that was before."""
        added = self.extension(previous_completion_ids, new_messages, tools=tools)
        return None if added is None else _Tokens([*previous_prompt_ids, *previous_completion_ids, *added])

    def parse_response(
        self,
        token_ids: list[int],
        *,
        tools: list[Any] | None = None,  # noqa: ARG002 - calls are not parsed
        prompt_ids: list[int] | None = None,  # noqa: ARG002 - nor is what the prompt has opened
    ) -> Parsed:
        """The text of the completion, without its stop token."""
        ids = token_ids[:-1] if token_ids and token_ids[-1] in self._stops else token_ids
        return _Text(self._client.detokenize(ids) if ids else "")

    def get_stop_token_ids(self) -> list[int]:
        """As given."""
        return list(self._stops)

    def _tokenize(self, messages: list[Message], tools: list[Any] | None, *, prompt: bool) -> list[int]:
        return self._client.tokenize(
            messages, add_generation_prompt=prompt, tools=tools, chat_template_kwargs=self._template
        )


def _stand_in(new_messages: list[Message]) -> Message:
    """An assistant's turn that calls the tools which the first of the new messages answer."""
    answers = []
    for message in new_messages:
        if message["role"] != "tool":
            break
        answers.append(message)
    turn: Message = {"role": "assistant", "content": "."}
    if answers:
        function = {"name": "f", "arguments": "{}"}
        turn["tool_calls"] = [
            {"id": message.get("tool_call_id", ""), "type": "function", "function": function} for message in answers
        ]
    return turn
