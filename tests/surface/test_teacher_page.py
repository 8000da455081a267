"""The Python of docs/teacher.md runs and prints the output that is shown."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "teacher.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_and_prints_what_it_says(number: int) -> None:
    examples = doctest.DocTestParser().get_doctest(BLOCKS[number], {}, f"block {number}", str(PAGE), 0)
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0
