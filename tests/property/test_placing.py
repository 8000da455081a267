"""Rows of routed experts are placed by the length of the prompt, or refused. No start contradicts the body's counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import assume, event, given
from hypothesis import strategies as st

import dynamo_tito as tito
from support.bodies import Container, Dialect, Sample
from support.strategies import containers, dialects, samples
from support.writing import compact

WAYS = ("nothing", "prompt_len", "prompt_token_ids", "echo", "named echo")
SHAPE: dict[str, Any] = {"require_logprobs": False, "num_layers": 1, "top_k": 2}


def stripped(document: Any, *, echo: bool, counts: bool) -> Any:
    """The document without what it says of the prompt's length."""
    if isinstance(document, list):
        return [stripped(one, echo=echo, counts=counts) for one in document]
    if not isinstance(document, dict):
        return document
    gone = set() if echo else {"prompt_token_ids"}
    gone |= set() if counts else {"usage", "prompt_tokens", "completion_tokens"}
    return {
        key: stripped(value, echo=echo, counts=counts) if key in ("nvext", "engine_data", "meta_info") else value
        for key, value in document.items()
        if key not in gone
    }


def outcome(body: bytes, **options: Any) -> tito.Completion | ValueError:
    try:
        return tito.decode(body, **options)
    except ValueError as error:
        return error


@st.composite
def served(draw: st.DrawFn) -> tuple[Sample, int]:
    """A sample whose rows are those from some start on, give or take a few, and how many of them are too many."""
    sample = draw(samples())
    whole = len(sample.prompt) + len(sample.tokens) - 1
    start = draw(st.integers(0, len(sample.prompt)))
    off = draw(st.sampled_from([0, 0, 0, -1, 1, 2]))
    rows = max(whole - start + off, 0)
    experts = np.arange(rows * 2, dtype=np.uint8).reshape(rows, 1, 2)
    return replace(sample, experts=experts, start=start, mask=None, prompt_logprobs=None), off


@given(served(), dialects, containers, st.sampled_from(WAYS), st.booleans(), st.none() | st.integers(0, 8))
def test_no_start_that_the_counts_contradict(
    served: tuple[Sample, int], dialect: Dialect, container: Container, way: str, counts: bool, asked: int | None
) -> None:
    sample, off = served
    assert sample.experts is not None
    document = stripped(dialect.build([sample], container), echo=way == "echo" and dialect.echo, counts=counts)
    if way == "named echo":
        assume(dialect.wire in ("dynamo_chat", "dynamo_completions"))
        document["nvext"]["prompt_token_ids"] = sample.prompt
    known = {"prompt_len": len(sample.prompt), "prompt_token_ids": sample.prompt}
    given_ = {way: known[way]} if way in known else {}
    placed = bool(given_) or way == "named echo" or (way == "echo" and dialect.echo)
    says_no_start = container != "object"
    completion = outcome(compact(document), wire=dialect.wire, routed_experts_prompt_start=asked, **SHAPE, **given_)
    if isinstance(completion, tito.DecodeError):
        event(completion.kind)
        return
    if isinstance(completion, ValueError):
        assert "prompt_len" in str(completion)
        assert says_no_start
        assert not placed
        event("needs_prompt_len")
        return
    event(f"decoded: {way}")
    routed = completion.routed_experts
    assert routed is not None
    nothing = completion.aborted and len(sample.experts) == 0
    if says_no_start and not placed:
        assert asked == 0 or nothing
    end = routed.start + len(routed.array)
    whole = len(sample.prompt) + len(sample.tokens) - 1
    early = completion.aborted and not sample.tokens
    counted = counts and not early and dialect.name not in ("vllm_0.31", "dynamo_generate")
    if placed or counted:
        assert end <= whole or nothing
        assert end == whole or completion.aborted
        assert end == whole or not routed.complete
    assert routed.start == (asked or 0) or not routed.complete
    honest = container == "object" or (asked or 0) == sample.start
    if placed and off == 0 and not nothing and honest and asked in (None, 0, sample.start):
        # What was served whole is where it was served from, or cut where that was asked for.
        first = max(asked or 0, sample.start if container == "object" else routed.start)
        assert routed.start == first
        assert np.array_equal(routed.array, sample.experts[first - sample.start :])


@given(samples(), dialects, st.sampled_from(["npy", "bare"]), st.none() | st.integers(1, 8), st.booleans())
def test_nothing_known_places_no_row(
    sample: Sample, dialect: Dialect, container: Container, asked: int | None, counts: bool
) -> None:
    rows = len(sample.prompt) + len(sample.tokens) - 1
    assume(rows > 0)
    sample = replace(sample, experts=np.zeros((rows, 1, 2), np.uint8), mask=None, prompt_logprobs=None)
    body = compact(stripped(dialect.build([sample], container), echo=False, counts=counts))
    refusal = outcome(body, wire=dialect.wire, routed_experts_prompt_start=asked, **SHAPE)
    assert type(refusal) is ValueError
    assert "prompt_len" in str(refusal)
    told = tito.decode(body, wire=dialect.wire, routed_experts_prompt_start=0, **SHAPE).routed_experts
    assert told is not None
    assert told.start == 0
