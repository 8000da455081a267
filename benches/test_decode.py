"""Every contender on every case, for pytest-benchmark: `pytest benches/test_decode.py --benchmark-only`.

`benches/peers.py` is what ratios are taken from, since it interleaves; this keeps histories and compares commits.
"""

from __future__ import annotations

from typing import Any

import pytest

from benches import cases
from benches.cases import CASES
from benches.rivals import contenders, prove

_PAIRS = [(name, rival) for name, case in CASES.items() for rival in contenders(case)]


@pytest.mark.parametrize(("name", "rival"), _PAIRS, ids=[f"{name}-{rival}" for name, rival in _PAIRS])
def test_decode(benchmark: Any, name: str, rival: str) -> None:
    case = CASES[name]
    body, truth = cases.load(name)
    contender = contenders(case)[rival]
    prove(contender, body, case, truth)
    benchmark.group = name
    benchmark.extra_info["megabytes"] = round(len(body) / 1e6, 2)
    benchmark(contender, body, case.prompt)
