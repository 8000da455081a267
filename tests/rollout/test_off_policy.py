"""Which weights sampled which token, and the mask that leaves out what older ones sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tito.rollout import Rollout, TrainingSample
from support.chat import ShortRenderer
from support.completions import completion, routed

END = 31_997
Run = tuple[str | None, int, bool]
#: A version, the tokens it sampled, and whether the engine measured that; None for tokens without a version.
RUNS = st.lists(st.tuples(st.sampled_from(["8", "9", "10", None]), st.integers(1, 3), st.booleans()), max_size=5)


def sampled(turns: list[list[Run]]) -> tuple[TrainingSample, list[tuple[str | None, bool]]]:
    """A sample whose turns have these segments; and per token of it the version and whether it was measured."""
    rollout = Rollout(ShortRenderer())
    said: list[tuple[str | None, bool]] = []
    for runs in turns:
        rollout.request([{"role": "user", "content": "a"}])
        for number, (version, count, measured) in enumerate(runs):
            span = {"version": version} | ({"start": 0, "end": count} if measured else {})
            last = number == len(runs) - 1
            if number:
                rollout.request(resume=True)
            rollout.append(
                completion(
                    [END] * count,
                    weight_versions=None if version is None else [span],
                    aborted=not last,
                    finish_reason="stop" if last else "abort",
                )
            )
        said += [(None, False)] * (rollout.turns[-1].completion_start - len(said))
        said += [(version, measured) for version, count, measured in runs for _ in range(count)]
    return rollout.sample(), said


@given(turns=st.lists(RUNS.filter(bool), min_size=1, max_size=3), older_than=st.sampled_from(["8", "9", "10"]))
def test_each_token_is_masked_by_its_own_version(turns: list[list[Run]], older_than: str) -> None:
    sample, said = sampled(turns)
    versions, indices = sample.version_indices()
    assert [versions[at] if at >= 0 else None for at in indices.tolist()] == [version for version, _ in said]
    for unmeasured in ("mask", "trust"):
        found = sample.mask_off_policy(older_than=older_than, unmeasured=unmeasured)
        kept = [
            version is not None and int(version) >= int(older_than) and (measured or unmeasured == "trust")
            for version, measured in said
        ]
        np.testing.assert_array_equal(found.mask, sample.mask & kept)
        assert found.token_ids is sample.token_ids
        assert found.logprobs is sample.logprobs
        assert (found.turns, found.shared) == (sample.turns, sample.shared)
        same = sample.mask_off_policy(older_than=older_than, order=["8", "9", "10"], unmeasured=unmeasured)
        assert found.equals(same)
        assert found.equals(sample.mask_off_policy(older_than=older_than, order=float, unmeasured=unmeasured))


def one(*versions: str, measured: bool = True) -> TrainingSample:
    return sampled([[(version, 1, measured) for version in versions]])[0]


@pytest.mark.parametrize(
    ("versions", "arguments", "kept"),
    [
        (("step_9", "step_10"), {"older_than": "step_10"}, 1),
        (("step_9", "step_010"), {"older_than": "step_10"}, 1),
        (("9", "10"), {"older_than": "9"}, 2),
        (("a", "b"), {"older_than": "b", "order": ("a", "b")}, 1),
        (("a", "b"), {"older_than": "b", "order": ("b", "a")}, 2),
        (("a", "b"), {"older_than": "b", "order": {"a": 2, "b": 1}.get}, 2),
    ],
)
def test_orders(versions: tuple[str, ...], arguments: dict[str, Any], kept: int) -> None:
    assert one(*versions).mask_off_policy(**arguments).mask.sum() == kept


@pytest.mark.parametrize(
    ("versions", "arguments", "error", "said"),
    [
        (("step_9", "base"), {"older_than": "step_9"}, ValueError, "'base' and 'step_9' are not one text"),
        (("a9", "b10"), {"older_than": "b10"}, ValueError, "say with order"),
        (("1",), {"older_than": "x"}, ValueError, "'x' and 'x' are not"),
        (("1", "step_"), {"older_than": "step_1"}, ValueError, "are not one text"),
        (("c",), {"older_than": "a", "order": ["a", "b"]}, ValueError, "'c' is not in the order given"),
        (("a",), {"older_than": "c", "order": ["a", "b"]}, ValueError, "'c' is not in the order given"),
        (("a",), {"older_than": "a", "order": ["a", "b", "a"]}, ValueError, "stands twice"),
        (("a",), {"older_than": "a", "order": {"a", "b"}}, TypeError, "not set"),
        (("a",), {"older_than": "a", "order": "ab"}, TypeError, "not str"),
        (("1",), {"older_than": "1", "unmeasured": "keep"}, ValueError, "'mask' or 'trust'"),
    ],
)
def test_what_has_no_order_is_refused(
    versions: tuple[str, ...], arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        one(*versions).mask_off_policy(**arguments)


def test_a_label_that_counts_for_nothing_needs_no_place_in_the_order() -> None:
    assert one("default", measured=False).mask_off_policy(older_than="7").mask.sum() == 0


def test_routing_goes_along() -> None:
    rollout = Rollout(ShortRenderer())
    total = len(rollout.prompt_ids([{"role": "user", "content": "a"}])) + 2
    rollout.append(completion([600, END], routed(total - 1), weight_versions=[{"version": "1", "start": 0, "end": 2}]))
    sample = rollout.sample()
    assert sample.mask_off_policy(older_than="2").routed_experts is sample.routed_experts
    np.testing.assert_array_equal(sample[2:].mask_off_policy(older_than="1").mask, sample.mask[2:])
