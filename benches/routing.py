"""The check of routed experts, 65,536 rows of 48 x 8: what it costs beside numpy's min and max of the same array.

python -m benches.routing [--rows N]

"sound" is what a good capture looks like, "dense" has three layers of zeros, "broken" ids at random, of which most
entries name one twice. What the check says is held against numpy before it is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamo_tito.rollout import routing_report

LAYERS, TOP_K, EXPERTS = 48, 8, 128
_ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65_536)
    rows = parser.parse_args().rows
    random = np.random.default_rng(0)
    some = np.argsort(random.random((1_024, LAYERS, EXPERTS), np.float32), axis=2)[:, :, :TOP_K]
    sound = np.resize(some, (rows, LAYERS, TOP_K))
    dense = sound.copy()
    dense[:, :3] = 0
    broken = random.integers(0, EXPERTS, sound.shape)
    for dtype in ("uint8", "uint16", "int32"):
        for name, given in (("sound", sound), ("dense", dense), ("broken", broken)):
            array = given.astype(dtype)
            _prove(array)
            ours = _best(lambda array=array: routing_report(array, num_experts=EXPERTS))  # type: ignore[misc]
            numpys = _best(lambda array=array: (array.min(), array.max()))  # type: ignore[misc]
            print(
                f"{dtype:>6} {name:>6}: {ours:6.1f} ms, {array.nbytes / ours / 1e6:5.1f} GB/s; "
                f"numpy's min and max {numpys:5.1f} ms; ratio {ours / numpys:.1f}"
            )


def _prove(array: NDArray[Any]) -> None:
    """The facts are those that numpy finds, one question at a time, among the first rows."""
    part = array[:2_048]
    zero = (part == 0).all(axis=2)
    ordered = np.sort(part, axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2) & ~zero
    limit = EXPERTS - 9
    report = routing_report(part, num_experts=limit)
    assert report.zero_entries == tuple(zero.sum(axis=0))
    assert report.duplicates == twice.sum()
    assert report.first_duplicate == (tuple(np.argwhere(twice)[0]) if twice.any() else None)
    assert report.out_of_range == (part >= limit).sum()
    assert report.first_out_of_range == tuple(np.argwhere(part >= limit)[0])
    assert report.longest_run == (0, 1)


def _best(call: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some calls."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


if __name__ == "__main__":
    main()
