"""The files, headings and paths that the pages name exist."""

from __future__ import annotations

import importlib.util
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import dynamo_tito as tito

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


def load_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    pages = load_pages()
    listed = [name for names in pages.public_names().values() for name in names]
    public = [f"dynamo_tito.{name}" for name in tito.__all__ if name != "__version__"]
    for module in pages.MODULES:
        public += [f"dynamo_tito.{module}.{name}" for name in import_module(f"dynamo_tito.{module}").__all__]
    assert sorted(listed) == sorted(public)


def test_a_block_of_a_page_names_its_language_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site shows another block as text, and loses the headings within."""
    monkeypatch.setattr("sys.argv", ["pages.py", str(tmp_path / "pages")])
    load_pages().main()
    texts = {path.name: path.read_text("utf-8") for path in tmp_path.rglob("*.md")}
    assert "integrations.md" in texts
    assert [name for name, text in texts.items() if re.search(r"^```\w+ ", text, re.MULTILINE)] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    pages = load_pages()
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} | set(pages.pages())
