"""Any arrays, on any wire, in any container, in any spelling: decoding gives the arrays back."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import dynamo_tito as tito
from dynamo_tito import Wire
from support.bodies import Container, Dialect, Sample
from support.small import BODIES
from support.strategies import containers, dialects, known, randoms, samples
from support.truth import check
from support.writing import compact, scrambled


@given(samples(), dialects, containers, randoms())
def test_any_spelling_decodes_to_the_sample(
    sample: Sample, dialect: Dialect, container: Container, random: Random
) -> None:
    body = scrambled(dialect.build([sample], container), random)
    completion = tito.decode(body, wire=dialect.wire, **known(sample))
    check(completion, sample, dialect, container)
    assert completion.finish_reason == sample.finish


@given(samples(), dialects, containers, randoms())
def test_every_spelling_decodes_alike(sample: Sample, dialect: Dialect, container: Container, random: Random) -> None:
    document = dialect.build([sample], container)
    plain = tito.decode(compact(document), wire=dialect.wire, **known(sample))
    assert plain.equals(tito.decode(scrambled(document, random), wire=dialect.wire, **known(sample)))


@given(st.data(), samples(), dialects.filter(lambda dialect: dialect.several), containers, randoms())
def test_several_choices_decode_one_by_one(
    data: st.DataObject, sample: Sample, dialect: Dialect, container: Container, random: Random
) -> None:
    others = data.draw(st.lists(samples(prompt=sample.prompt), min_size=1, max_size=3))
    together = [replace(other, experts=None, prompt_logprobs=sample.prompt_logprobs) for other in (sample, *others)]
    body = scrambled(dialect.build(together, container), random)
    completions = tito.decode_choices(body, wire=dialect.wire, prompt_token_ids=sample.prompt)
    for completion, one in zip(completions, together, strict=True):
        check(completion, one, dialect, container)


@given(samples(), dialects, containers, st.integers(0, 20))
def test_trimming_equals_slicing(sample: Sample, dialect: Dialect, container: Container, first: int) -> None:
    assume(sample.experts is not None)
    assert sample.experts is not None
    first = min(first, len(sample.experts))
    body = compact(dialect.build([sample], container))
    whole = tito.decode(body, wire=dialect.wire, **known(sample)).routed_experts
    trimmed = tito.decode(body, wire=dialect.wire, routed_experts_prompt_start=first, **known(sample)).routed_experts
    assert whole is not None
    assert trimmed is not None
    assert np.array_equal(trimmed.array, whole.array[first:])
    assert (whole.start, trimmed.start) == (0, first)


@given(samples(), dialects, containers, st.integers(0, 20))
def test_trimming_here_equals_trimming_there(
    sample: Sample, dialect: Dialect, container: Container, first: int
) -> None:
    assume(sample.experts is not None)
    assert sample.experts is not None
    first = min(first, len(sample.experts))
    served = replace(sample, experts=sample.experts[first:], start=first)
    here = tito.decode(
        compact(dialect.build([sample], container)),
        wire=dialect.wire,
        routed_experts_prompt_start=first,
        **known(sample),
    )
    there = tito.decode(
        compact(dialect.build([served], container)),
        wire=dialect.wire,
        routed_experts_prompt_start=first,
        **known(sample),
    )
    assert here.equals(there)


@given(samples(), dialects, containers)
def test_every_width_and_every_buffer_hold_the_same_ids(sample: Sample, dialect: Dialect, container: Container) -> None:
    assume(sample.experts is not None)
    assert sample.experts is not None
    body = compact(dialect.build([sample], container))
    wide = tito.decode(body, wire=dialect.wire, **known(sample))
    native = tito.decode(body, wire=dialect.wire, experts="native", **known(sample))
    room = np.full(sample.experts.size + 7, -1, np.int32)
    placed = tito.decode(body, wire=dialect.wire, experts_out=room, **known(sample))
    skipped = tito.decode(body, wire=dialect.wire, experts="skip", **known(sample))
    assert wide.routed_experts is not None
    assert native.routed_experts is not None
    assert placed.routed_experts is not None
    assert native.routed_experts.array.dtype == native.routed_experts.wire_dtype
    assert np.array_equal(native.routed_experts.array, wide.routed_experts.array)
    assert np.array_equal(placed.routed_experts.array, wide.routed_experts.array)
    assert sample.experts.size == 0 or np.shares_memory(placed.routed_experts.array, room)
    assert (room[sample.experts.size :] == -1).all()
    assert skipped.routed_experts is None


@given(samples(), dialects, containers, st.data())
def test_one_changed_byte_is_refused_or_decoded_as_it_stands(
    sample: Sample, dialect: Dialect, container: Container, data: st.DataObject
) -> None:
    body = bytearray(compact(dialect.build([sample], container)))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] = data.draw(st.sampled_from(b'0123456789-.eE+,:[]{}"\\/ ntfabAB=\x00\x7f\x80\xff'))
    refused_or_decoded(bytes(body), dialect.wire, sample)


@given(st.sampled_from(sorted(BODIES)), st.data())
def test_several_changed_bytes_are_refused_or_decoded_as_they_stand(wire: Wire, data: st.DataObject) -> None:
    body = bytearray(BODIES[wire])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] = data.draw(st.integers(0, 255))
    sample = Sample(prompt=[1, 2, 3], tokens=[], logprobs=[], top=[])
    refused_or_decoded(bytes(body), wire, sample)


def refused_or_decoded(body: bytes, wire: Wire, sample: Sample) -> None:
    """Decoding accepts or refuses; decoding every choice gives the same. The oracle judges the values, in Rust."""
    try:
        found = tito.decode(body, wire=wire, **known(sample))
    except tito.TitoError:
        return
    (same,) = tito.decode_choices(body, wire=wire, **known(sample))
    assert found.equals(same), (found, same)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.sampled_from(sorted(BODIES)))
def test_anything_else_is_refused(body: bytes, wire: Wire) -> None:
    with pytest.raises(tito.TitoError):
        tito.decode(body, wire=wire)
