from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from dynamo_tito import _errors
from dynamo_tito._errors import (
    AdminError,
    AlignmentError,
    DecodeError,
    DriftError,
    MalformedBodyError,
    MissingFieldError,
    OverlongPromptError,
    RoutedExpertsError,
    ServerError,
    TitoError,
    TransportError,
)

CLASSES = [value for value in vars(_errors).values() if inspect.isclass(value) and issubclass(value, TitoError)]

EXAMPLES: list[TitoError] = [
    TitoError("plain"),
    *(
        kind("no count (at choices[0].token_ids, byte 7)", kind="count", path="choices[0].token_ids", offset=7)
        for kind in (DecodeError, MalformedBodyError, MissingFieldError, AlignmentError, RoutedExpertsError)
    ),
    OverlongPromptError(4097, 4096),
    *(
        kind("busy", status=503, body=b'{"message":"busy"}', request_id="r-1", retryable=True)
        for kind in CLASSES
        if issubclass(kind, ServerError)
    ),
    TransportError("cut short", phase="body"),
    DriftError("token 7 differs", kind="prefix", token=7, message=2),
    AdminError("1 of 2 failed", results=[{"worker": 1, "ok": True}, {"worker": 2, "ok": False}]),
]


def test_every_class_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(CLASSES)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "duplicate",
    [
        *(lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=[*(f"pickle{protocol}" for protocol in range(6)), "copy", "deepcopy"],
)
def test_an_error_survives_duplication(error: TitoError, duplicate: Any) -> None:
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)


def test_notes_survive_pickling() -> None:
    error = DecodeError("bad", kind="syntax")
    error.add_note("while reading rollout 7")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while reading rollout 7"]


def test_a_subclass_with_its_own_signature_survives_pickling() -> None:
    error = _MineError(3)
    assert vars(pickle.loads(pickle.dumps(error))) == {"count": 3}


class _MineError(TitoError):
    def __init__(self, count: int) -> None:
        super().__init__(f"{count} of mine")
        self.count = count


def test_the_tree_is_the_one_in_the_docstring() -> None:
    drawing = _errors.__doc__ or ""
    parents: dict[int, str] = {}
    drawn = {}
    for line in drawing.splitlines():
        found = re.search(r"([A-Z]\w+Error)\b(?: \((\w+)\))?", line) if line.startswith("    ") else None
        if found:
            depth = found.start() // 4
            parents[depth] = found[1]
            drawn[found[1]] = {parents.get(depth - 1), found[2]} - {None}
    actual = {kind.__name__: {base.__name__ for base in kind.__bases__} - {"Exception"} for kind in CLASSES}
    assert drawn == actual


@pytest.mark.parametrize("kind", [DecodeError, OverlongPromptError])
def test_wrong_data_is_a_value_error(kind: type[TitoError]) -> None:
    assert issubclass(kind, ValueError)


def test_a_server_error_keeps_four_kibibytes_of_text() -> None:
    error = ServerError("no", body=("€" * 4000).encode())
    assert error.body == "€" * 1365
    assert len(error.body.encode()) <= 4096


def test_a_body_that_was_cut_before_is_not_marked_as_broken() -> None:
    assert ServerError("no", body=("€" * 4000).encode()[:4096]).body == "€" * 1365
    assert ServerError("no", body=b"\xe2\x82").body == "\N{REPLACEMENT CHARACTER}"


def test_the_text_of_a_server_becomes_one_line() -> None:
    error = ServerError("2 validation errors:\n  'a': missing\r\n  'b': missing\n" + "x" * 5000)
    assert str(error).startswith("2 validation errors: 'a': missing 'b': missing xxx")
    assert len(str(error)) == 500


def test_a_body_that_is_not_utf8_is_shown_nevertheless() -> None:
    assert ServerError("no", body=b"caf\xe9 \x00").body == "caf\N{REPLACEMENT CHARACTER} \x00"


def test_attributes_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        DecodeError("bad", "syntax")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TransportError("bad", "send")  # type: ignore[call-arg]


def test_an_overlong_prompt_names_both_lengths() -> None:
    error = OverlongPromptError(4097, 4096)
    assert (error.prompt_len, error.max_prompt_len) == (4097, 4096)
    assert "4097" in str(error)
    assert "4096" in str(error)
