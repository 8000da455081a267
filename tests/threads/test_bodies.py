"""One body used by several threads: what one of them gets is right or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito.rollout import routing_report
from support.bodies import DIALECTS
from support.samples import invent
from support.threads import THREADS, at_once, disturbed
from support.truth import check
from support.writing import compact

ROUNDS = 20
DIALECT = DIALECTS["prime_generate"]
SAMPLE = invent(1, prompt=64, completion=200, layers=12, top_k=8)
TEXT = compact(DIALECT.build([SAMPLE], DIALECT.container))
REFUSED = ("the body is closed", "the body is frozen", "the body is being written to")


@contextlib.contextmanager
def refusable() -> Iterator[None]:
    """Where another thread was faster, a body says so."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(REFUSED):
            raise


def test_a_body_is_filled_viewed_decoded_and_closed_at_once() -> None:
    """Blanks behind the document change nothing of what it means."""

    def decode(body: tito.Body) -> None:
        check(tito.decode(body, wire=DIALECT.wire, prompt_len=64), SAMPLE, DIALECT, DIALECT.container)

    def view(body: tito.Body) -> None:
        seen = memoryview(body)
        before = bytes(seen)
        assert before[: len(TEXT)] == TEXT
        assert before[len(TEXT) :].strip() == b""
        with refusable():
            assert body.tobytes() == before
        body.close()
        assert bytes(seen) == before

    def describe(body: tito.Body) -> None:
        assert repr(body).startswith("<Body: ")
        assert len(body) in (0, *range(len(TEXT), len(TEXT) + 8 * THREADS * ROUNDS))

    def grow(body: tito.Body) -> None:
        for _ in range(8):
            body.append(b" ")

    works: list[Callable[[tito.Body], object]] = [decode, view, grow, decode, grow, describe, view, tito.Body.close]
    bodies = [tito.Body() for _ in range(ROUNDS)]
    for body in bodies:
        body.append(TEXT)

    def work(number: int) -> None:
        for turn, body in enumerate(bodies):
            with refusable():
                works[(number + turn) % len(works)](body)

    with disturbed(tito.trim_memory, tito.memory_stats):
        at_once(work)
    assert all(body.closed for body in bodies)


def test_spare_memory_is_lent_to_one_thread_at_a_time() -> None:
    body, size = tito.Body(), 4096
    chunks = [0] * THREADS

    def work(number: int) -> None:
        while chunks[number] < ROUNDS:
            with contextlib.suppress(ValueError):
                spare = body.spare(size)
                with memoryview(spare) as view:
                    view[:] = bytes([number]) * size
                spare.filled(size)
                chunks[number] += 1

    at_once(work)
    found = np.frombuffer(memoryview(body), np.uint8).reshape(-1, size)
    assert (found == found[:, :1]).all()
    assert np.bincount(found[:, 0]).tolist() == [ROUNDS] * THREADS


def test_memory_that_is_viewed_is_not_given_back() -> None:
    for _ in range(ROUNDS):
        body = tito.Body()
        spare = body.spare(1 << 16)
        given: list[int] = []

        def write(number: int, spare: tito.Spare = spare) -> None:
            with contextlib.suppress(BufferError), memoryview(spare) as view:
                view[:] = bytes([number]) * len(view)

        def give_back(number: int, spare: tito.Spare = spare, given: list[int] = given) -> None:
            while not given:
                with contextlib.suppress(BufferError, ValueError):
                    spare.filled(number)
                    given.append(number)

        at_once(write, write, write, give_back, give_back)
        assert given == [len(body)]
        with pytest.raises(BufferError, match="given back"):
            memoryview(spare)


def test_a_body_that_the_caller_overwrites_is_read_once() -> None:
    """``decode`` takes a copy of what can change, so that a number is judged as it is read."""
    one, two = (
        TEXT.replace(b'"finish_reason":"stop"', b'"finish_reason":"%s"' % reason) for reason in (b"stop", b"eos_")
    )
    assert len(one) == len(two) == len(TEXT)
    changing = bytearray(one)

    def overwrite() -> None:
        changing[:] = two
        changing[:] = one

    def work(_: int) -> None:
        for _ in range(ROUNDS):
            with contextlib.suppress(tito.DecodeError):
                completion = tito.decode(changing, wire=DIALECT.wire, prompt_len=64)
                assert completion.token_ids.tolist() == SAMPLE.tokens

    with disturbed(overwrite):
        at_once(work)


def test_an_array_is_not_read_while_it_is_decoded_into() -> None:
    large = invent(2, prompt=64, completion=4000, layers=24, top_k=8)
    body = compact(DIALECT.build([large], DIALECT.container))
    out = np.zeros((64 + 4000 - 1, 24, 8), np.int32)

    def write() -> None:
        with contextlib.suppress(ValueError):  # somebody reads it
            tito.decode(body, wire=DIALECT.wire, prompt_len=64, experts_out=out)

    def look() -> None:
        try:
            routing_report(out)
        except ValueError as error:
            assert str(error).startswith("array cannot be read: ")  # noqa: PT017 - one of two outcomes

    with disturbed(write):
        for _ in range(500):
            look()
    tito.decode(body, wire=DIALECT.wire, prompt_len=64, experts_out=out)
    assert np.array_equal(out, large.experts)  # type: ignore[arg-type]
