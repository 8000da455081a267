"""The Python of the pages runs, in order, and prints the output that is shown. Commands that they name exist."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from support.small import swap, with_experts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    (page, number, code)
    for page in ("README.md", "docs/teacher.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
]


def test_both_pages_have_blocks() -> None:
    assert {page for page, _, _ in BLOCKS} == {"README.md", "docs/teacher.md"}


@pytest.mark.parametrize(("page", "number", "code"), BLOCKS)
def test_a_block_prints_what_is_shown(
    page: str, number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "response.json").write_bytes(with_experts())
    (tmp_path / "cut.json").write_bytes(swap(with_experts(), b"[5,6]", b"[5,6,7]"))
    examples = doctest.DocTestParser().get_doctest(code, {}, f"block {number}", page, 0)
    assert examples.examples, "a block without >>> is not checked"
    if "tito_renderers.install" in code:
        pytest.importorskip("renderers")
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(examples)
    assert results.failed == 0


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_the_python_versions_agree() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
