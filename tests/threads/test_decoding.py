"""Eight threads at once: the same answers as one after the other, while the pool is bounded, trimmed and turned off."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from support.bodies import DIALECTS, Dialect, Sample
from support.samples import invent
from support.threads import THREADS, at_once, disturbed
from support.truth import check
from support.writing import compact

TURNS = 10
ROW: dict[str, Any] = {"num_layers": 24, "top_k": 8}


def answer(seed: int, dialect: Dialect) -> tuple[bytes, Sample]:
    sample = invent(seed, prompt=300, completion=400, layers=24, top_k=8, top=1, mask=dialect.mask)
    return compact(dialect.build([sample], dialect.container)), sample


def resize(max_bytes: int) -> Callable[[], None]:
    return lambda: tito.configure_memory(max_bytes=max_bytes)


@pytest.fixture
def bound() -> Iterator[int]:
    """The pool's bound, as it was before and will be again."""
    was = tito.memory_stats()["max_bytes"]
    yield was
    tito.configure_memory(max_bytes=was)


@pytest.mark.parametrize("pool", ["on", "off", "changing"])
def test_every_dialect_on_every_thread(pool: str, bound: int) -> None:
    answers = [(dialect, *answer(seed, dialect)) for seed, dialect in enumerate(DIALECTS.values())]

    def work(number: int) -> None:
        kept = []
        for turn in range(TURNS):
            dialect, body, sample = answers[(number + turn) % len(answers)]
            completion = tito.decode(body, wire=dialect.wire, prompt_len=300, **ROW)
            check(completion, sample, dialect, dialect.container)
            kept.append((completion, sample, dialect))
            if turn % 3 == 0:
                del kept[0]
        for completion, sample, dialect in kept:
            check(completion, sample, dialect, dialect.container)

    if pool == "off":
        tito.configure_memory(max_bytes=0)
    disturbances = [tito.trim_memory, tito.memory_stats, gc.collect]
    if pool == "changing":
        disturbances += [resize(0), resize(1 << 20), resize(bound)]
    with disturbed(*disturbances):
        at_once(work)


def test_each_thread_into_an_array_of_its_own() -> None:
    dialect = DIALECTS["prime_generate"]
    answers = [answer(60 + number, dialect) for number in range(THREADS)]
    # One array, a part of it for every thread: what one writes beside its part, another finds.
    rows = 300 + 400 - 1
    whole = np.full((THREADS, rows + 1, 24, 8), -1, np.int32)

    def work(number: int) -> None:
        body, sample = answers[number]
        for _ in range(TURNS):
            completion = tito.decode(body, wire=dialect.wire, prompt_len=300, experts_out=whole[number])
            check(completion, sample, dialect, dialect.container)
            assert completion.routed_experts is not None
            assert np.shares_memory(completion.routed_experts.array, whole[number])

    with disturbed(tito.trim_memory):
        at_once(work)
    for number, (_, sample) in enumerate(answers):
        assert np.array_equal(whole[number, :rows], sample.experts)  # type: ignore[arg-type]
        assert (whole[number, rows] == -1).all()


def test_one_array_for_all_threads_is_refused_or_whole() -> None:
    """One decode uses it at a time. The others raise an error."""
    dialect = DIALECTS["prime_generate"]
    body, sample = answer(70, dialect)
    out = np.empty((699, 24, 8), np.int32)
    outcomes: list[str] = []

    def work(_: int) -> None:
        for _ in range(TURNS):
            try:
                tito.decode(body, wire=dialect.wire, prompt_len=300, experts_out=out)
            except ValueError as error:
                outcomes.append(f"{type(error).__name__}: {error}")
            else:
                outcomes.append("whole")

    at_once(work)
    assert len(outcomes) == THREADS * TURNS
    assert outcomes.count("whole") > 0
    told = "ValueError: experts_out cannot be written: The given array is already borrowed"
    assert {*outcomes} <= {"whole", told}
    assert np.array_equal(out, sample.experts)  # type: ignore[arg-type]


def test_one_body_for_all_threads() -> None:
    dialect = DIALECTS["dynamo_chat_content"]
    text, sample = answer(80, dialect)
    shared = tito.Body()
    shared.append(text)

    def work(_: int) -> None:
        for _ in range(TURNS):
            check(tito.decode(shared, wire=dialect.wire, **ROW), sample, dialect, dialect.container)
            assert shared.frozen
            assert shared.tobytes() == text

    at_once(work)


def test_the_same_error_on_every_thread() -> None:
    dialect = DIALECTS["vllm_0.32"]
    text, _ = answer(90, dialect)
    errors: list[tuple[str, str, str, int | None]] = []

    def work(_: int) -> None:
        for _ in range(TURNS):
            with pytest.raises(tito.AlignmentError) as caught:
                tito.decode(text.replace(b'"token_ids":[', b'"token_ids":[1,'), wire=dialect.wire)
            found = caught.value
            errors.append((str(found), found.kind, found.path, found.offset))

    at_once(work)
    assert len(errors) == THREADS * TURNS
    assert len({*errors}) == 1


def test_chunks_from_every_thread() -> None:
    shared = tito.Body()
    chunk = b"0123456789" * 1000

    def work(number: int) -> None:
        for _ in range(TURNS):
            shared.append(b"%d" % number + chunk)

    at_once(work)
    text = shared.tobytes()
    assert len(text) == THREADS * TURNS * (len(chunk) + 1)
    size = len(chunk) + 1
    assert sorted(text[::size]) == sorted(b"01234567" * TURNS)
    assert all(text[at + 1 : at + size] == chunk for at in range(0, len(text), size))
