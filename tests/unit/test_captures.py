"""Every recorded response, against what the engine behind it is known to have done."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import Wire
from support import captures, reading
from support.captures import CAPTURES, DECODED, Capture, Choice, Refusal
from support.checks import pairs, same


def test_every_recorded_answer_is_judged() -> None:
    assert {capture.name for capture in CAPTURES} == set(captures.answers())


@pytest.mark.parametrize("capture", [c for c in CAPTURES if isinstance(c.expected, list)], ids=str)
def test_a_recorded_answer_decodes_to_what_the_engine_did(capture: Capture) -> None:
    completions = tito.decode_choices(capture.body, wire=capture.wire, **capture.options)
    assert isinstance(capture.expected, list)
    assert len(completions) == len(capture.expected)
    for completion, choice in zip(completions, capture.expected, strict=True):
        check(completion, choice)


def check(completion: tito.Completion, choice: Choice) -> None:
    assert completion.token_ids.tolist() == choice.tokens
    assert same(completion.logprobs, choice.logprobs, np.float64)
    assert same(completion.prompt_token_ids, choice.echo, np.int32)
    assert pairs(completion.top_logprobs) == repr(choice.top)
    prompt = completion.prompt_logprobs
    assert same(None if prompt is None else prompt.logprobs, choice.prompt_logprobs, np.float64)
    assert pairs(None if prompt is None else prompt.top) == repr(choice.prompt_top)
    routed = completion.routed_experts
    assert same(None if routed is None else routed.array, choice.experts, np.int32)
    if routed is not None:
        assert routed.start == choice.start
        assert routed.complete
    assert completion.sampling_mask is None
    assert completion.finish_reason == choice.finish
    assert completion.finish_reason_raw == (choice.raw or choice.finish)
    assert completion.stop_reason == choice.stop
    assert completion.aborted is choice.aborted
    assert completion.index == choice.index


@pytest.mark.parametrize("capture", [c for c in DECODED if isinstance(c.expected, list)], ids=str)
def test_a_recorded_answer_decodes_to_what_a_plain_reading_finds(capture: Capture) -> None:
    options = {
        key: value for key, value in capture.options.items() if key not in ("require_logprobs", "missing_logprob")
    }
    expected = reading.read(capture.body, wire=capture.wire, **options)
    found = tito.decode_choices(capture.body, wire=capture.wire, **capture.options)
    assert [*map(repr, found)] == [*map(repr, expected)]
    assert all(one.equals(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("capture", [c for c in CAPTURES if isinstance(c.expected, Refusal)], ids=str)
def test_a_recorded_answer_that_cannot_be_trusted_is_refused(capture: Capture) -> None:
    expected = capture.expected
    assert isinstance(expected, Refusal)
    with pytest.raises(expected.error) as caught:
        tito.decode(capture.body, wire=capture.wire, **capture.options)
    if expected.kind is not None:
        assert isinstance(caught.value, tito.DecodeError)
        assert type(caught.value) is expected.error
        assert (caught.value.kind, caught.value.path) == (expected.kind, expected.path)


@pytest.mark.parametrize(
    "capture", [c for c in DECODED if isinstance(c.expected, list) and len(c.expected) > 1], ids=str
)
def test_several_choices_are_not_one(capture: Capture) -> None:
    with pytest.raises(tito.MalformedBodyError) as caught:
        tito.decode(capture.body, wire=capture.wire, **capture.options)
    assert (caught.value.kind, caught.value.path) == ("several_choices", "choices[1]")


@pytest.mark.parametrize("wire", get_args(Wire))
@pytest.mark.parametrize("name", sorted(path.name for path in captures.FOLDER.iterdir()))
def test_any_recording_on_any_wire_decodes_or_is_refused(name: str, wire: Wire) -> None:
    body = (captures.FOLDER / name).read_bytes()
    result: Any = None
    try:
        result = tito.decode_choices(body, wire=wire, num_layers=4, top_k=2, prompt_len=5)
    except tito.TitoError as error:
        result = error
    assert isinstance(result, list | tito.TitoError)


def test_an_error_body_keeps_the_servers_words() -> None:
    body = (captures.FOLDER / "quarantined_generate.json").read_bytes()
    with pytest.raises(tito.ServerError, match="not ready to serve") as caught:
        tito.decode(body, wire="vllm_generate")
    assert caught.value.status is None
    assert caught.value.body == body.decode()
