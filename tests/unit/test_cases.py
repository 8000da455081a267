"""Each case of ``tests/cases`` in Python: the exception's class and address, or arrays, dtypes and sources."""

from __future__ import annotations

from typing import Any, get_args

import pytest

import dynamo_tito as tito
from support.cases import CASES, DATA, body_of, decoded, streamed, text, written

CLASSES: dict[str, type[Exception]] = {
    "malformed": tito.MalformedBodyError,
    "missing": tito.MissingFieldError,
    "alignment": tito.AlignmentError,
    "routed_experts": tito.RoutedExpertsError,
    "server": tito.ServerError,
    "engine": tito.EngineError,
    "argument": ValueError,
}

DECODABLE = [case for case in CASES if not case.get("rust_only")]
RECORDED = [
    path
    for folder in ("captures", "captures_vllm", "artifacts")
    for path in sorted((DATA / folder).rglob("*.json"))
    if path.name != "index.json"
]


@pytest.mark.parametrize("case", [case for case in DECODABLE if "expect" in case], ids=lambda case: case["name"])
def test_a_case_decodes(case: dict[str, Any]) -> None:
    expected = case["expect"] if isinstance(case["expect"], list) else [case["expect"]]
    if "score_from" in case.get("options", {}):
        expected = [{"prompt_logprobs": one["prompt_logprobs"]} for one in expected]
    assert [*map(text, decoded(case, body_of(case)))] == [*map(text, expected)]


@pytest.mark.parametrize("case", [case for case in DECODABLE if "error" in case], ids=lambda case: case["name"])
def test_a_case_is_refused(case: dict[str, Any]) -> None:
    body, expected = body_of(case), case["error"]
    with pytest.raises(CLASSES[expected["class"]]) as caught:
        decoded(case, body)
    error = caught.value
    assert type(error) is CLASSES[expected["class"]]
    assert "\n" not in str(error)
    assert expected["path"] in str(error)
    assert expected.get("words", "") in str(error)
    if isinstance(error, tito.DecodeError):
        assert (error.kind, error.path, error.offset) == (expected["kind"], expected["path"], expected["offset"])
    if isinstance(error, tito.ServerError):
        assert error.status is None
        # Of a stream, the event that says it.
        assert error.body in body.decode() if "ending" in case else error.body == body[:4096].decode()


STREAMS = [case for case in DECODABLE if "ending" in case and "expect" in case]


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["name"])
def test_a_stream_decodes_byte_by_byte(case: dict[str, Any]) -> None:
    body = body_of(case)
    completions = streamed(case, (body[at : at + 1] for at in range(len(body))))
    expected = case["expect"] if isinstance(case["expect"], list) else [case["expect"]]
    options = case.get("options", {})
    mode, dtype = options.get("experts", "int32"), options.get("logprobs_dtype", "float64")
    found = [written(one, mode, dtype) for one in completions]
    assert [*map(text, found)] == [*map(text, expected)]


@pytest.mark.parametrize("wire", get_args(tito.Wire))
def test_a_recorded_body_on_any_wire_decodes_or_is_refused(wire: tito.Wire) -> None:
    for path in RECORDED:
        try:
            tito.decode_choices(path.read_bytes(), wire=wire, num_layers=4, top_k=2, prompt_len=5)
        except tito.TitoError:
            continue


def test_names_are_unique() -> None:
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names)) > 4000


def test_every_recorded_answer_has_a_case() -> None:
    read = {body_of(case) for case in CASES if "file" in case}
    assert len(RECORDED) > 250
    assert [path.name for path in RECORDED if path.read_bytes() not in read] == []
