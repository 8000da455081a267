"""Messages of any type are compared by their content."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dynamo_tito.rollout.messages import fingerprints, plain


class Role(Enum):
    TOOL = "tool"


class Function(BaseModel):
    name: str
    arguments: str


class ModelCall(BaseModel):
    id: str
    type: str = "function"
    function: Function


class Model(BaseModel):
    role: str
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ModelCall] | None = None


@dataclass
class Data:
    role: str
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[Any, ...] | None = None


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "forms",
    [
        [
            {"role": "user", "content": "a"},
            OrderedDict(content="a", name=None, role="user"),
            MappingProxyType({"role": "user", "content": "a"}),
            Model(role="user", content="a"),
            Data("user", "a"),
        ],
        [
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "index": None}]},
            Model(role="assistant", tool_calls=[ModelCall(id="c", function=Function(name="f", arguments="{}"))]),
            Data("assistant", "", tool_calls=(CALL,)),
        ],
        [{"role": Role.TOOL, "content": "x"}, {"role": "tool", "content": "x"}],
    ],
)
def test_one_conversation_in_many_types(forms: list[Any]) -> None:
    assert len({fingerprints(plain([form]))[0] for form in forms}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"role": "user", "content": "b"},
        {"role": "system", "content": "a"},
        {"role": "user", "content": "a", "name": "n"},
        {"role": "user", "content": "a", "name": ""},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "user", "content": "a", "tool_calls": []},
        {"role": "user"},
    ],
)
def test_messages_of_other_content_differ(other: dict[str, Any]) -> None:
    assert fingerprints(plain([other])) != fingerprints(plain([{"role": "user", "content": "a"}]))


def called_with(arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments, "strict": None}}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


@pytest.mark.parametrize("arguments", [{"limit": None}, {"where": {"limit": None}}, [{"limit": None}], {}])
def test_none_is_a_value_among_arguments(arguments: Any) -> None:
    (message,) = plain(called_with(arguments))
    assert message == {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }
    assert (fingerprints([message]) == fingerprints(plain(called_with({})))) is (arguments == {})


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": st.text(max_size=2)}), max_size=4
)


@given(MESSAGES, MESSAGES)
def test_fingerprints_are_of_whole_prefixes(one: list[Any], other: list[Any]) -> None:
    mine, theirs = fingerprints(plain(one)), fingerprints(plain(other))
    for length in range(min(len(one), len(other))):
        assert (mine[length] == theirs[length]) is (one[: length + 1] == other[: length + 1])
    assert fingerprints(plain(other), mine[-1] if mine else b"") == fingerprints(plain(one + other))[len(one) :]


@pytest.mark.parametrize(
    "bad", [{"role": "user", "content": object()}, {"role": 1}, 7, "text", {"role": "a", "b": b"c"}]
)
def test_what_is_no_message(bad: Any) -> None:
    with pytest.raises(TypeError):
        plain([bad])
