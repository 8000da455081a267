"""``divergence``: the formulae, the tokens that count, and refused arguments."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import Divergence, PromptLogprobs, TopLogprobs

RNG = np.random.default_rng(7)
N = 10_000
SAMPLE = -RNG.exponential(1.0, N)
SCORED = SAMPLE + RNG.normal(0.0, 0.1, N)
MASK = RNG.random(N) < 0.3


def expected(sample: Any, scored: Any, mask: Any) -> Divergence:
    """By numpy, in float64."""
    d = np.asarray(sample, np.float64)[mask] - np.asarray(scored, np.float64)[mask]
    k3 = float(np.mean(np.expm1(-d) + d))
    return Divergence(int(mask.sum()), 0, float(d.mean()), float(np.abs(d).mean()), float(np.abs(d).max()), k3)


def close(found: Divergence, wanted: Divergence) -> bool:
    return (found.count, found.skipped) == (wanted.count, wanted.skipped) and np.allclose(
        [found.mean, found.mean_abs, found.max_abs, found.k3],
        [wanted.mean, wanted.mean_abs, wanted.max_abs, wanted.k3],
        rtol=1e-9,
        atol=0,
        equal_nan=True,
    )


@pytest.mark.parametrize("scored_type", [np.float32, np.float64])
@pytest.mark.parametrize("sample_type", [np.float32, np.float64])
def test_the_formulae(sample_type: Any, scored_type: Any) -> None:
    sample, scored = SAMPLE.astype(sample_type), SCORED.astype(scored_type)
    assert close(tito.divergence(sample, scored, MASK), expected(sample, scored, MASK))


def test_a_case_by_hand() -> None:
    found = tito.divergence(np.array([-1.0, -2.0]), np.array([-1.0 + math.log(2), -2.0]), np.array([True, True]))
    assert found.count == 2
    assert found.mean == pytest.approx(-math.log(2) / 2)
    assert found.mean_abs == found.max_abs / 2 == pytest.approx(math.log(2) / 2)
    assert found.k3 == pytest.approx((2 - 1 - math.log(2)) / 2)


def test_of_equal_scorings_nothing_is_left() -> None:
    assert tito.divergence(SAMPLE, SAMPLE, MASK) == Divergence(int(MASK.sum()), 0, 0.0, 0.0, 0.0, 0.0)


def test_a_tiny_difference_keeps_its_digits() -> None:
    found = tito.divergence(np.array([-1e-9]), np.array([0.0]), np.array([True]))
    assert found.k3 == pytest.approx(5e-19, rel=1e-8)


@pytest.mark.parametrize("missing", ["raise", "skip"])
@pytest.mark.parametrize("outside", [math.nan, math.inf, -math.inf, 1e300])
def test_unsampled_tokens_are_ignored(outside: float, missing: Any) -> None:
    sample, scored = SAMPLE.copy(), SCORED.copy()
    sample[~MASK] = outside
    scored[~MASK] = -outside
    found = tito.divergence(sample, scored, MASK, missing_logprob=missing)
    assert close(found, expected(SAMPLE, SCORED, MASK))


def test_nan_among_sampled_tokens_is_refused() -> None:
    at = int(np.flatnonzero(MASK)[5])
    for name, column in (("sample_logprobs", 0), ("scored", 1)):
        columns = [SAMPLE.copy(), SCORED.copy()]
        columns[column][at] = math.nan
        with pytest.raises(ValueError, match=rf"{name}\[{at}\] is NaN .*skip"):
            tito.divergence(columns[0], columns[1], MASK)


def test_nan_among_sampled_tokens_is_left_out_and_counted() -> None:
    gone = np.flatnonzero(MASK)[:7]
    sample, scored = SAMPLE.copy(), SCORED.copy()
    sample[gone[:3]] = math.nan
    scored[gone[3:]] = math.nan
    found = tito.divergence(sample, scored, MASK, missing_logprob="skip")
    rest = MASK.copy()
    rest[gone] = False
    wanted = expected(SAMPLE, SCORED, rest)
    assert found.skipped == 7
    assert close(found, Divergence(wanted.count, 7, wanted.mean, wanted.mean_abs, wanted.max_abs, wanted.k3))


@pytest.mark.parametrize("missing", ["raise", "skip"])
@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_infinity_is_refused_whatever_the_policy(infinity: float, missing: Any) -> None:
    with pytest.raises(ValueError, match=r"scored\[0\] is -?inf"):
        tito.divergence(np.array([-1.0]), np.array([infinity]), np.array([True]), missing_logprob=missing)


@pytest.mark.parametrize("size", [0, 3])
def test_nothing_sampled_is_nan(size: int) -> None:
    found = tito.divergence(np.zeros(size), np.zeros(size), np.zeros(size, bool))
    assert (found.count, found.skipped) == (0, 0)
    assert all(math.isnan(value) for value in (found.mean, found.mean_abs, found.max_abs, found.k3))


def test_scores_as_a_client_returns_them() -> None:
    top = TopLogprobs(np.zeros(0, np.int32), np.zeros(0), np.zeros(N + 1, np.int64))
    assert tito.divergence(SAMPLE, PromptLogprobs(SCORED, top), MASK) == tito.divergence(SAMPLE, SCORED, MASK)


def test_batches_and_strides() -> None:
    whole = tito.divergence(SAMPLE, SCORED, MASK)
    shape = (100, 100)
    square = tito.divergence(SAMPLE.reshape(shape), SCORED.reshape(shape), MASK.reshape(shape))
    assert square == whole
    turned = tito.divergence(SAMPLE.reshape(shape).T, SCORED.reshape(shape).T, MASK.reshape(shape).T)
    assert close(turned, whole)
    assert tito.divergence(SAMPLE[::2], SCORED[::2], MASK[::2]) == tito.divergence(
        SAMPLE[::2].copy(), SCORED[::2].copy(), MASK[::2].copy()
    )


def test_a_mask_of_any_nonzero_byte() -> None:
    odd = np.where(MASK, 2, 0).astype(np.uint8).view(np.bool_)
    assert tito.divergence(SAMPLE, SCORED, odd) == tito.divergence(SAMPLE, SCORED, MASK)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((np.zeros(3), np.zeros(2), np.zeros(3, bool)), ValueError, "scored has the shape"),
        ((np.zeros(3), np.zeros(3), np.zeros(4, bool)), ValueError, "mask has the shape"),
        ((np.zeros((1, 3)), np.zeros(3), np.zeros(3, bool)), ValueError, "scored has the shape"),
        ((np.zeros(3, np.float16), np.zeros(3), np.zeros(3, bool)), TypeError, "sample_logprobs must be of float32"),
        ((np.zeros(3), np.zeros(3, np.int64), np.zeros(3, bool)), TypeError, "scored must be of float32"),
        ((np.zeros(3, ">f8"), np.zeros(3), np.zeros(3, bool)), TypeError, "sample_logprobs must be of float32"),
        ((np.zeros(3), np.zeros(3), np.zeros(3, np.uint8)), TypeError, "mask must be of bool"),
        ((np.zeros(3), np.zeros(3), np.zeros(3)), TypeError, "mask must be of bool"),
        (([0.0], np.zeros(1), np.zeros(1, bool)), TypeError, "sample_logprobs must be a numpy array"),
        ((np.zeros(1), None, np.zeros(1, bool)), TypeError, "scored must be a numpy array"),
    ],
)
def test_shapes_and_dtypes_are_checked(arguments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        tito.divergence(*arguments)


def test_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match="skip"):
        tito.divergence(SAMPLE, SCORED, MASK, missing_logprob="nan")  # type: ignore[arg-type]


def test_the_record() -> None:
    found = tito.divergence(SAMPLE, SCORED, MASK)
    assert pickle.loads(pickle.dumps(found)) == found
    assert repr(found).startswith("Divergence(count=")
