"""Comparisons of decoded arrays with plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamo_tito._types import TopLogprobs


def same(array: npt.NDArray[Any] | None, expected: Any, dtype: npt.DTypeLike) -> bool:
    """Whether an array is of this dtype and holds these values; NaN equals NaN, None only None."""
    if array is None or expected is None:
        return array is expected
    values = np.asarray(expected, dtype)
    return array.dtype == values.dtype and np.array_equal(array, values, equal_nan=values.dtype.kind == "f")


def pairs(top: TopLogprobs | None) -> str:
    """``[[(id, logprob), ...], ...]`` as text, in which NaN is equal to itself."""
    if top is None:
        return "None"
    return repr([[*zip(ids.tolist(), scores.tolist(), strict=True)] for ids, scores in top])
