"""The Python of the README runs, in order, and prints the output that is shown."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from support.small import swap, with_experts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_is_something_to_run() -> None:
    assert BLOCKS


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_and_prints_what_it_says(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "response.json").write_bytes(with_experts())
    (tmp_path / "cut.json").write_bytes(swap(with_experts(), b"[5,6]", b"[5,6,7]"))
    examples = doctest.DocTestParser().get_doctest(BLOCKS[number], {}, f"block {number}", "README.md", 0)
    assert examples.examples, "a block without >>> proves nothing"
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(examples)
    assert results.failed == 0


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_every_file_that_is_linked_exists() -> None:
    linked = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_python_versions_agree() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
