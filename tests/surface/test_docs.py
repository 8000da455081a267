"""The files, headings and paths that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)")
NAMED = re.compile(r"`((?:benches|docs|examples|oracle|python|src|tests|tools)/[\w./-]+)(?:`|::)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text()):
        target = page.parent / file if file else page
        assert target.exists(), file
        if anchor:
            assert anchor[1:] in anchors(target), f"{file}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    absent = [path for path in NAMED.findall(page.read_text()) if not (ROOT / path).exists()]
    assert not absent


@pytest.mark.parametrize("name", ["architecture", "judgement"])
def test_tables_fit_120_columns(name: str) -> None:
    lines = (ROOT / "docs" / f"{name}.md").read_text().splitlines()
    assert max(map(len, lines)) < 120
