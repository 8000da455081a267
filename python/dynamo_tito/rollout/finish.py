"""The content of a completion: the assistant's message, its tool calls, and why it ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bridge import Parsed, ParsedCall
    from .messages import Message

WELL_FORMED = "ok"
"""The status of a tool call that can be carried out; every other one names the mistake."""


def finish_reason(engine: str | None, parsed: Parsed) -> str | None:
    """The engine's reason; its ``"stop"`` is ``"tool_calls"`` where at least one well-formed call was made."""
    return "tool_calls" if engine == "stop" and any(map(well_formed, parsed.tool_calls)) else engine


def assistant_message(parsed: Parsed, turn: int) -> Message:
    """The completion as a message. Calls that carry no id are given one that is unique in the rollout."""
    message: Message = {"role": "assistant", "content": parsed.content}
    if parsed.reasoning_content is not None:
        message["reasoning_content"] = parsed.reasoning_content
    calls = [call for call in parsed.tool_calls if well_formed(call)]
    if calls:
        message["tool_calls"] = [
            {
                "id": getattr(call, "id", None) or f"call_{turn}_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for number, call in enumerate(calls)
        ]
    return message


def well_formed(call: ParsedCall) -> bool:
    """Whether the renderer understood the call."""
    return call.status == WELL_FORMED


def _arguments(arguments: Any) -> str:
    """As OpenAI has them: JSON in a string."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
