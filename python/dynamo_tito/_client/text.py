"""``/tokenize`` and ``/detokenize``: routes that sample nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_tito._errors import MissingFieldError

if TYPE_CHECKING:
    from .caller import Caller
    from .steps import Steps

T = TypeVar("T")


def tokenize(
    caller: Caller, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], deadline: float | None
) -> Steps[list[int]]:
    """The token ids that ``/tokenize`` answers; ``options`` are all of :class:`TokenizeOptions`."""
    members: dict[str, Any] = {} if caller.model is None else {"model": caller.model}
    members |= {"messages": list(messages), "add_generation_prompt": options["add_generation_prompt"]}
    if options["tools"]:
        members["tools"] = list(options["tools"])
    if options["chat_template_kwargs"]:
        members["chat_template_kwargs"] = dict(options["chat_template_kwargs"])
    answer = yield from caller.exchange("/tokenize", members, deadline)
    return _member(answer, "tokens", list)


def detokenize(caller: Caller, token_ids: Sequence[int], deadline: float | None) -> Steps[str]:
    """The text that ``/detokenize`` answers: ``prompt`` of vLLM, ``text`` of SGLang."""
    members: dict[str, Any] = {} if caller.model is None else {"model": caller.model}
    members["tokens"] = [int(token) for token in token_ids]
    answer = yield from caller.exchange("/detokenize", members, deadline)
    return _member(answer, "text" if isinstance(answer, dict) and "text" in answer else "prompt", str)


def _member(answer: Any, name: str, kind: type[T]) -> T:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise MissingFieldError(f"the answer holds no {name}", kind="missing", path=name)
    return value
