"""Scores of given tokens out of a body: the cases that trip clients which take the first entry and check no length."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, MalformedBodyError, MissingFieldError, PromptLogprobs, ServerError
from support.checks import pairs, same

IDS = [11, 12, 13, 14]
LOGPROBS = [None, -2.5, -0.25, -3.75]
#: At each position the token's own entry, and two that are worth more.
ALTERNATIVES = {21: -0.125, 22: -0.0625}
MAPS = ["vllm_generate", "vllm_chat", "dynamo_chat", "dynamo_completions"]
WIRES = [*MAPS, "sglang_generate"]
#: Of Dynamo's channels the first that is there counts.
DYNAMO_PLACES = ["engine_data", "nvext", "top"]


def maps(*, shuffled: int | None = None, rank: Any = 1) -> list[Any]:
    """The map form of the scores."""
    positions: list[Any] = [None]
    for token, own in zip(IDS[1:], LOGPROBS[1:], strict=True):
        entries = [(token, own), *ALTERNATIVES.items()]
        if shuffled is not None:
            random.Random(shuffled + token).shuffle(entries)
        positions.append({str(name): {"logprob": value, "rank": rank} for name, value in entries})
    return positions


def triples() -> list[list[Any]]:
    """SGLang's form."""
    return [[value, token, None] for token, value in zip(IDS, LOGPROBS, strict=True)]


def body(wire: str, scores: Any, *, place: str = "top", **more: Any) -> bytes:
    """An answer of one sampled token with these scores."""
    document: dict[str, Any]
    if wire == "sglang_generate":
        document = {"output_ids": [7], "meta_info": {"finish_reason": None, "input_token_logprobs": scores, **more}}
    else:
        document = {"choices": [{"index": 0, "token_ids": [7], "finish_reason": "length"}]}
        if place == "top":
            document["prompt_logprobs"] = scores
        else:
            held = {"prompt_logprobs": scores}
            document["nvext"] = {"engine_data": held} if place == "engine_data" else held
    return json.dumps(document).encode()


def score(content: bytes, wire: Any, **options: Any) -> PromptLogprobs:
    return tito.decode_prompt_logprobs(content, wire=wire, **{"prompt_token_ids": IDS, **options})


def refused(content: bytes, wire: str, error: type[tito.DecodeError], kind: str, path: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        score(content, wire, **options)
    assert type(caught.value) is error
    assert (caught.value.kind, caught.value.path) == (kind, path)


def form(wire: str) -> list[Any]:
    return triples() if wire == "sglang_generate" else maps()


def path_of(wire: str) -> str:
    return "meta_info.input_token_logprobs" if wire == "sglang_generate" else "prompt_logprobs"


def set_score(scores: list[Any], wire: str, position: int, value: Any) -> str:
    """Overwrite the value of the prompt's own token; returns its path."""
    if wire == "sglang_generate":
        scores[position][0] = value
        return f"{path_of(wire)}[{position}][0]"
    scores[position][str(IDS[position])]["logprob"] = value
    return f"{path_of(wire)}[{position}].{IDS[position]}.logprob"


# --- the values ---


@pytest.mark.parametrize("shuffled", [None, *range(6)])
@pytest.mark.parametrize("wire", MAPS)
def test_shuffled_maps(wire: str, shuffled: int | None) -> None:
    found = score(body(wire, maps(shuffled=shuffled)), wire)
    assert same(found.logprobs, [math.nan, *LOGPROBS[1:]], np.float64)
    rows = [[], *([(22, -0.0625), (21, -0.125), (IDS[i], LOGPROBS[i])] for i in range(1, 4))]
    assert pairs(found.top) == repr(rows)


@pytest.mark.parametrize("wire", MAPS)
def test_every_order_of_three_keys(wire: str) -> None:
    for order in itertools.permutations([("12", -2.5), ("21", -0.125), ("22", -0.0625)]):
        scores = [None, {name: {"logprob": value} for name, value in order}]
        found = score(body(wire, scores), wire, prompt_token_ids=[11, 12])
        assert same(found.logprobs, [math.nan, -2.5], np.float64)


@pytest.mark.parametrize("place", DYNAMO_PLACES)
@pytest.mark.parametrize("wire", ["dynamo_chat", "dynamo_completions"])
def test_every_place_of_dynamo(wire: str, place: str) -> None:
    found = score(body(wire, maps(), place=place), wire)
    assert same(found.logprobs, [math.nan, *LOGPROBS[1:]], np.float64)


@pytest.mark.parametrize("ids", [np.array(IDS, np.int32), np.array(IDS, np.int64), tuple(IDS)])
def test_ids_in_every_form(ids: Any) -> None:
    assert same(score(body("vllm_generate", maps()), "vllm_generate", prompt_token_ids=ids).logprobs[1:],
                LOGPROBS[1:], np.float64)  # fmt: skip


@pytest.mark.parametrize("rank", [1, 0, None, 2**40, "first"])
@pytest.mark.parametrize("wire", MAPS)
def test_rank_ties_and_other_ranks_are_not_looked_at(wire: str, rank: Any) -> None:
    found = score(body(wire, maps(rank=rank, shuffled=1)), wire)
    assert same(found.logprobs, [math.nan, *LOGPROBS[1:]], np.float64)


def test_equal_log_probabilities_are_listed_by_id() -> None:
    scores = [None, {"30": {"logprob": -1, "rank": 1}, "12": {"logprob": -1, "rank": 1}, "5": {"logprob": -1}}]
    found = score(body("vllm_generate", scores), "vllm_generate", prompt_token_ids=[11, 12])
    assert pairs(found.top) == repr([[], [(5, -1.0), (12, -1.0), (30, -1.0)]])


@pytest.mark.parametrize("wire", WIRES)
def test_null_first_entry(wire: str) -> None:
    found = score(body(wire, form(wire)), wire)
    assert np.isnan(found.logprobs[0])
    assert len(found.top[0][0]) == 0
    assert found.logprobs.shape == (len(IDS),)


# --- what is refused ---


@pytest.mark.parametrize("wire", MAPS)
def test_the_actual_token_is_missing(wire: str) -> None:
    scores = maps()
    del scores[2]["13"]
    refused(body(wire, scores), wire, AlignmentError, "identity", "prompt_logprobs[2]")
    refused(body(wire, [None, {}, {}, {}]), wire, AlignmentError, "identity", "prompt_logprobs[1]")


def test_another_token_on_sglang() -> None:
    scores = triples()
    scores[2][1] = 99
    refused(body("sglang_generate", scores), "sglang_generate", AlignmentError, "identity",
            "meta_info.input_token_logprobs[2][1]")  # fmt: skip


@pytest.mark.parametrize("start", [0, 1, 3, 4])
@pytest.mark.parametrize("change", [-2, -1, 1, 2])
@pytest.mark.parametrize("wire", WIRES)
def test_an_extra_or_a_missing_position(wire: str, change: int, start: int) -> None:
    whole = form(wire)
    scores = whole[:change] if change < 0 else [*whole, *whole[-1:] * change]
    content = body(wire, scores)
    if wire == "sglang_generate" and len(scores) == len(IDS) - max(start - 1, 0):
        # As many as a suffix has, of other tokens.
        refused(content, wire, AlignmentError, "identity", f"{path_of(wire)}[0][1]", start=start)
    else:
        refused(content, wire, AlignmentError, "count", path_of(wire), start=start)


@pytest.mark.parametrize("sentinel", [-9999.0, -9999, -1e30, -1.0000000150474662e30, None])
@pytest.mark.parametrize("wire", WIRES)
def test_sentinels_and_nan_as_null(wire: str, sentinel: float | None) -> None:
    scores = form(wire)
    path = set_score(scores, wire, 2, sentinel)
    content = body(wire, scores)
    refused(content, wire, MissingFieldError, "no_logprob", path)
    found = score(content, wire, missing_logprob="nan")
    assert same(found.logprobs, [math.nan, -2.5, math.nan, -3.75], np.float64)


@pytest.mark.parametrize("near", [-9998.999, -9999.001, -1e29, 0.0, -0.0, 1e-3])
@pytest.mark.parametrize("wire", WIRES)
def test_what_is_next_to_a_sentinel_is_a_value(wire: str, near: float) -> None:
    scores = form(wire)
    set_score(scores, wire, 2, near)
    assert score(body(wire, scores), wire).logprobs[2] == near


@pytest.mark.parametrize("wire", MAPS)
def test_a_null_position(wire: str) -> None:
    scores = maps()
    scores[3] = None
    refused(body(wire, scores), wire, MissingFieldError, "no_logprob", "prompt_logprobs[3]")
    assert np.isnan(score(body(wire, scores), wire, missing_logprob="nan").logprobs).tolist() == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("literal", [b"NaN", b"-Infinity", b"1e999", b'"-1"', b"true"])
@pytest.mark.parametrize("wire", WIRES)
def test_what_is_no_number(wire: str, literal: bytes) -> None:
    content = body(wire, form(wire)).replace(b"-2.5", literal)
    with pytest.raises(MalformedBodyError):
        score(content, wire, missing_logprob="nan")


@pytest.mark.parametrize("wire", WIRES)
def test_no_scores_at_all(wire: str) -> None:
    refused(body(wire, None), wire, MissingFieldError, "missing", path_of(wire))
    if wire == "sglang_generate":
        refused(body(wire, []), wire, MissingFieldError, "missing", path_of(wire))
    else:
        refused(body(wire, []), wire, AlignmentError, "count", path_of(wire))


def test_an_error_body() -> None:
    with pytest.raises(ServerError):
        score(b'{"error":{"message":"no"}}', "vllm_generate")


def test_an_echo_of_another_prompt() -> None:
    document = json.loads(body("vllm_chat", maps()))
    document["prompt_token_ids"] = [11, 12, 13, 15]
    refused(json.dumps(document).encode(), "vllm_chat", AlignmentError, "prompt_mismatch", "prompt_token_ids[3]")


# --- from a position on ---


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("wire", WIRES)
def test_from_a_position_on(wire: str, start: int) -> None:
    found = score(body(wire, form(wire)), wire, start=start)
    expected = [math.nan if i < max(start, 1) else LOGPROBS[i] for i in range(4)]
    assert same(found.logprobs, expected, np.float64)
    assert found.top.offsets.shape == (5,)
    assert found.top.offsets[start] == 0
    assert found.top.offsets[-1] == len(found.top.token_ids) == len(found.top.logprobs)
    for i in range(max(start, 1), 4):
        ids, values = found.top[i]
        assert values[ids.tolist().index(IDS[i])] == LOGPROBS[i]


@pytest.mark.parametrize("start", range(5))
def test_the_suffix_that_sglang_sends(start: int) -> None:
    first = max(start - 1, 0)
    listed = [[None if i == first else LOGPROBS[i], IDS[i], None] for i in range(first, 4)]
    found = score(body("sglang_generate", listed), "sglang_generate", start=start)
    whole = score(body("sglang_generate", triples()), "sglang_generate", start=start)
    assert found.equals(whole)
    assert found.logprobs.shape == (4,)


def test_a_suffix_that_was_not_asked_for() -> None:
    listed = [[None, 13, None], [-3.75, 14, None]]
    content = body("sglang_generate", listed)
    for start in (0, 1, 2, 4):
        refused(content, "sglang_generate", AlignmentError, "count", "meta_info.input_token_logprobs", start=start)
    assert score(content, "sglang_generate", start=3).logprobs[3] == -3.75


def test_a_null_that_sglang_owes() -> None:
    """The first of a suffix has no value, every other must have one."""
    listed = [[None, 12, None], [None, 13, None], [-3.75, 14, None]]
    content = body("sglang_generate", listed)
    refused(
        content, "sglang_generate", MissingFieldError, "no_logprob", "meta_info.input_token_logprobs[1][0]", start=2
    )
    assert np.isnan(score(content, "sglang_generate", start=2, missing_logprob="nan").logprobs[2])


@pytest.mark.parametrize("wire", WIRES)
def test_what_lies_before_the_start_is_of_the_prompt_but_needs_no_value(wire: str) -> None:
    scores = form(wire)
    path = set_score(scores, wire, 1, -9999.0)
    content = body(wire, scores)
    refused(content, wire, MissingFieldError, "no_logprob", path, start=1)
    assert score(content, wire, start=2).logprobs[2] == -0.25
    ids = [11, 99, 13, 14]
    place = "[1][1]" if wire == "sglang_generate" else "[1]"
    refused(content, wire, AlignmentError, "identity", path_of(wire) + place, start=3, prompt_token_ids=ids)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"start": 5}, ValueError),
        ({"start": -1}, ValueError),
        ({"start": 1.0}, TypeError),
        ({"start": True}, TypeError),
        ({"prompt_token_ids": [-1]}, ValueError),
        ({"prompt_token_ids": None}, TypeError),
        ({"missing_logprob": "zero"}, ValueError),
        ({"wire": "openai"}, ValueError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        tito.decode_prompt_logprobs(b"", **{"wire": "vllm_generate", "prompt_token_ids": IDS, **options})
    assert not isinstance(caught.value, tito.TitoError)


# --- SGLang's alternatives ---


def test_alternatives_beside_the_triples() -> None:
    rows = [None, [[-0.125, 21, None], [-2.5, 12, None]], [[None, 22, None], [-1, 21, None]], None]
    found = score(body("sglang_generate", triples(), input_top_logprobs=rows), "sglang_generate")
    assert same(found.logprobs, [math.nan, *LOGPROBS[1:]], np.float64)
    expected = [[], [(21, -0.125), (12, -2.5)], [(13, -0.25), (21, -1.0), (22, math.nan)], [(14, -3.75)]]
    assert pairs(found.top) == repr(expected)


@pytest.mark.parametrize(
    ("rows", "error", "kind", "inside"),
    [
        ([None], AlignmentError, "count", ""),
        ([None] * 5, AlignmentError, "count", ""),
        ({}, MalformedBodyError, "type", ""),
        ([None, 7, None, None], MalformedBodyError, "type", "[1]"),
        ([None, [[-1]], None, None], MalformedBodyError, "type", "[1][0]"),
        ([None, [[-1, -1]], None, None], MalformedBodyError, "type", "[1][0][1]"),
    ],
)
def test_alternatives_of_the_wrong_form(rows: Any, error: type[tito.DecodeError], kind: str, inside: str) -> None:
    content = body("sglang_generate", triples(), input_top_logprobs=rows)
    refused(content, "sglang_generate", error, kind, "meta_info.input_top_logprobs" + inside)


def test_alternatives_do_not_speak_for_the_token() -> None:
    """Its own triple does, whatever the row beside it says."""
    rows = [None, [[-0.5, 12, None]], None, None]
    scores = triples()
    scores[1][0] = None
    content = body("sglang_generate", scores, input_top_logprobs=rows)
    refused(content, "sglang_generate", MissingFieldError, "no_logprob", "meta_info.input_token_logprobs[1][0]")
    found = score(content, "sglang_generate", missing_logprob="nan")
    assert np.isnan(found.logprobs[1])
    assert len(found.top[1][0]) == 0


# --- long ---


@pytest.mark.parametrize("wire", ["vllm_generate", "sglang_generate"])
def test_128k_positions_by_no_object_per_token(wire: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 150_000, 131_072)
    values = -rng.exponential(1.0, len(ids))
    if wire == "sglang_generate":
        scores: list[Any] = [[None, int(ids[0]), None]]
        scores += [[value, token, None] for token, value in zip(ids[1:].tolist(), values[1:].tolist(), strict=True)]
    else:
        scores = [None]
        scores += [{str(token): {"logprob": value, "rank": 1}} for token, value in
                   zip(ids[1:].tolist(), values[1:].tolist(), strict=True)]  # fmt: skip
    found = score(body(wire, scores), wire, prompt_token_ids=ids, start=1_000)
    assert np.isnan(found.logprobs[:1_000]).all()
    assert np.array_equal(found.logprobs[1_000:], values[1_000:])
    assert np.array_equal(found.top.token_ids, ids[1_000:])
