"""Routing across turns: merged, repaired or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._client import TitoClient
from dynamo_tito.rollout import Rollout
from dynamo_tito.rollout.routing import Rows
from support.chat import ShortRenderer
from support.completions import completion, routed

END = 31_997


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def begun(experts: Any = "full", **options: Any) -> tuple[Rollout, int]:
    """A rollout after a first turn of three tokens; and how long it is."""
    rollout = Rollout(ShortRenderer(), **options)
    total = len(rollout.prompt_ids(say("a"))) + 3
    rollout.append(completion([600, 601, END], routed(total - 1) if experts == "full" else experts))
    return rollout, total


def test_the_row_that_was_omitted_is_repaired_by_the_next_turn() -> None:
    rollout, total = begun()
    filled = rollout.sample().routed_experts
    assert filled is not None
    assert np.array_equal(filled[-1], filled[-2])
    end = len(rollout.prompt_ids(say("b"))) + 2
    assert rollout.routed_experts_prompt_start == total - 1
    rollout.append(completion([602, END], routed(end - total, total - 1)))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert np.array_equal(rows[:-1], routed(end - 1).array)
    # The earlier sample is what it was.
    assert np.array_equal(filled[-1], filled[-2])


@pytest.mark.parametrize("start", [0, 1, 7, -1])
def test_start_decides_which_rows_overlap(start: int) -> None:
    rollout, total = begun()
    start = start if start >= 0 else total - 1
    end = len(rollout.prompt_ids(say("b"))) + 2
    given = routed(end - 1 - start, start)
    given.array[: total - 1 - start] ^= 128  # of positions that are held already: those stay
    rollout.append(completion([602, END], given))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert np.array_equal(rows[:-1], routed(end - 1).array)


def test_a_wider_turn_widens_the_sample_and_not_what_is_held() -> None:
    rollout, total = begun()
    end = len(rollout.prompt_ids(say("b"))) + 2
    wide = routed(end - total, total - 1, dtype="uint16")
    wide.array[:] += 300
    turn = rollout.append(completion([602, END], wide))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert rows.dtype == np.uint16
    assert np.array_equal(rows[: total - 1], routed(total - 1).array)
    assert np.array_equal(rows[total - 1 : -1], wide.array)
    assert turn.parent is not None
    assert turn.parent.rows is not None
    assert turn.parent.rows.dtype == np.uint8
    whole = rollout.sample().routed_experts_as(np.int32)
    assert whole is not None
    assert whole.dtype == np.int32
    assert np.array_equal(whole, rows)


def test_int32_from_the_client_is_held_at_wire_width() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids(say("a"))) + 1
    given = routed(total - 1, dtype="int32", wire_dtype="uint8")
    turn = rollout.append(completion([END], given))
    assert turn.rows is not None
    assert turn.rows.dtype == np.uint8
    assert np.array_equal(turn.rows, given.array)


def test_ids_that_cannot_have_had_that_width_are_refused() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids(say("a"))) + 1
    given = routed(total - 1, dtype="int32", wire_dtype="uint8")
    given.array[3, 1, 1] = 256
    with pytest.raises(tito.RoutedExpertsError, match="do not fit uint8"):
        rollout.append(completion([END], given))


@pytest.mark.parametrize(
    ("kind", "shift", "rows"),
    [("gap", 1, 0), ("gap", 5, 0), ("rows", 0, 1), ("rows", 0, -1), ("rows", -2, 1), ("rows", -3, -1)],
)
def test_what_does_not_add_up_is_refused(kind: str, shift: int, rows: int) -> None:
    rollout, total = begun()
    end = len(rollout.prompt_ids(say("b"))) + 2
    start = total - 1 + shift
    before = rollout.token_ids
    with pytest.raises(tito.RoutedExpertsError) as caught:
        rollout.append(completion([602, END], routed(end - 1 - start + rows, start)))
    assert caught.value.kind == kind
    # Nothing has changed: the right answer is still taken.
    assert (len(rollout.turns), len(rollout.token_ids)) == (1, len(before))
    rollout.append(completion([602, END], routed(end - total, total - 1)))


@pytest.mark.parametrize("start", [0, 3, -1])
def test_an_engine_that_sends_the_last_row_too(start: int) -> None:
    rollout = Rollout(ShortRenderer(), final_row="present", strict_routing=True)
    total = len(rollout.prompt_ids(say("a"))) + 3
    rollout.append(completion([600, 601, END], routed(total)))
    end = len(rollout.prompt_ids(say("b"))) + 2
    assert rollout.routed_experts_prompt_start == total - 1
    start = start if start >= 0 else total - 1
    rollout.append(completion([602, END], routed(end - start, start)))
    for sample in (rollout.sample(), rollout.sample(final_row="drop")):
        assert sample.routed_experts is not None
        assert np.array_equal(sample.routed_experts, routed(end).array)


@pytest.mark.parametrize(
    ("final_row", "extra", "says"),
    [
        ("omitted", 1, r"say so: Rollout\(..., final_row='present'\)"),
        ("present", 0, "the engine omits that of the last"),
        ("omitted", 2, "do not add up"),
        ("present", 2, "do not add up"),
        ("present", -1, "do not add up"),
    ],
)
def test_the_last_row_is_there_where_it_is_said_to_be(final_row: Any, extra: int, says: str) -> None:
    rollout = Rollout(ShortRenderer(), final_row=final_row)
    total = len(rollout.prompt_ids(say("a"))) + 1
    with pytest.raises(tito.RoutedExpertsError, match=says) as caught:
        rollout.append(completion([END], routed(total - 1 + extra)))
    assert caught.value.kind == "rows"


def test_the_last_row_from_a_client() -> None:
    """The embedded engine sends one row too many, which such a client takes for the last token's."""
    one_more = simulator.Fault(kind="wrong_rows", by=1)
    with (
        simulator.running(fault_rate=1.0, random_faults=(one_more,)) as engine,
        TitoClient(
            engine.url, model=engine.config.model, transport="dynamo_chat", final_row="present", trust_env=False
        ) as client,
    ):
        rollout = Rollout(ShortRenderer(), final_row="present")
        for text in ("a", "b"):
            rollout.append(client.generate(**rollout.request(say(text)), sampling_params={"max_tokens": 3}))
        refused = Rollout(ShortRenderer())
        answer = client.generate(**refused.request(say("a")), sampling_params={"max_tokens": 3})
        with pytest.raises(tito.RoutedExpertsError, match="final_row='present'"):
            refused.append(answer)
    sample = rollout.sample(final_row="drop")
    assert len(sample) == len(rollout.token_ids)


def test_a_final_row_that_is_neither() -> None:
    with pytest.raises(ValueError, match="final_row must be one of omitted, present"):
        Rollout(ShortRenderer(), final_row="repeat")  # type: ignore[arg-type]


def test_another_shape_is_refused() -> None:
    rollout, total = begun()
    end = len(rollout.prompt_ids(say("b"))) + 2
    with pytest.raises(tito.RoutedExpertsError) as caught:
        rollout.append(completion([602, END], routed(end - total, total - 1, layers=3)))
    assert caught.value.kind == "shape"


@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("tokens", [[], [END], [602, 603, END]])
def test_a_turn_without_rows_leaves_them_to_the_next_turn(tokens: list[int], aborted: bool) -> None:
    """As of a prefill worker whose first token ends the turn, or of an abort before the first forward pass."""
    rollout, total = begun()
    end = len(rollout.prompt_ids(say("b"))) + len(tokens)
    turn = rollout.append(completion(tokens, aborted=aborted))
    assert (turn.rows, turn.rows_start, turn.rows_end) == (None, total - 1, total - 1)
    with pytest.raises(tito.RoutedExpertsError, match=f"{end - total + 1} of {end} rows are missing"):
        rollout.sample()
    assert len(rollout.sample(final_row="drop")) == total - 1
    end = len(rollout.prompt_ids(say("c"))) + 1
    assert rollout.routed_experts_prompt_start == total - 1
    with pytest.raises(tito.RoutedExpertsError) as caught:
        rollout.append(completion([END], routed(end - 1 - total, total)))
    assert caught.value.kind == "gap"
    rollout.append(completion([END], routed(end - total, total - 1)))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert np.array_equal(rows[:-1], routed(end - 1).array)


def test_a_first_turn_without_rows() -> None:
    rollout, _ = begun(experts=None)
    end = len(rollout.prompt_ids(say("b"))) + 1
    assert rollout.routed_experts_prompt_start == 0
    rollout.append(completion([END], routed(end - 1)))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert np.array_equal(rows[:-1], routed(end - 1).array)


def test_an_answer_that_ended_with_an_error_is_no_turn() -> None:
    rollout, total = begun()
    end = len(rollout.prompt_ids(say("b"))) + 1
    with pytest.raises(tito.EngineError, match="finish reason 'error' after 1 tokens"):
        rollout.append(completion([602], routed(end - total, total - 1), finish_reason="error"))
    rollout.append(completion([END], routed(end - total, total - 1)))


def test_routing_that_comes_later_must_be_whole() -> None:
    rollout, total = begun(experts=None)
    end = len(rollout.prompt_ids(say("b"))) + 2
    assert rollout.routed_experts_prompt_start == 0
    with pytest.raises(tito.RoutedExpertsError) as caught:
        rollout.append(completion([602, END], routed(end - total, total - 1)))
    assert caught.value.kind == "gap"
    rollout.append(completion([602, END], routed(end - 1)))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert len(rows) == end


def test_an_abort_leaves_rows_out_that_the_next_turn_is_asked_for() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids(say("a"))) + 3
    rollout.append(completion([600, 601, 602], routed(total - 3, complete=False), finish_reason="abort", aborted=True))
    with pytest.raises(tito.RoutedExpertsError, match="3 of"):
        rollout.sample()
    assert len(rollout.sample(final_row="drop")) == total - 3
    end = len(rollout.prompt_ids(say("b"))) + 1
    assert rollout.routed_experts_prompt_start == total - 3
    rollout.append(completion([END], routed(end - 1 - (total - 3), total - 3)))
    rows = rollout.sample().routed_experts
    assert rows is not None
    assert np.array_equal(rows[:-1], routed(end - 1).array)


def test_strict_routing_names_what_is_found() -> None:
    rollout = Rollout(ShortRenderer(), strict_routing={"num_experts": 251})
    total = len(rollout.prompt_ids(say("a"))) + 1
    given = routed(total - 1)
    given.array[:, 1] = 0
    with pytest.raises(tito.RoutedExpertsError, match="layers 1 are zero in all") as caught:
        rollout.append(completion([END], given))
    assert caught.value.kind == "routing"


def test_strict_routing_holds_a_turn_against_the_one_before() -> None:
    rollout, total = begun(strict_routing=True)
    end = len(rollout.prompt_ids(say("b"))) + 2
    given = routed(end - 1)
    given.array[total - 3] = [[90, 91], [92, 93]]
    with pytest.raises(tito.RoutedExpertsError, match=f"the first is row {total - 3}: rows shifted"):
        rollout.append(completion([602, END], given))


def test_rows_are_freed_as_they_are_joined() -> None:
    """A sample that alone holds the turns' rows never holds them twice."""
    freed: list[int] = []

    class Chunk(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            freed.append(len(self))

    rows = Rows(np.full((n, 2, 2), n, np.uint8).view(Chunk) for n in (1, 2, 3))
    freed.clear()
    whole = rows.array()
    assert freed == [1, 2, 3]
    assert whole[:, 0, 0].tolist() == [1, 2, 2, 3, 3, 3]
    assert rows.array() is whole
