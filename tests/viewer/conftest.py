"""Pages in a real Chromium. Without one, or without playwright, these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from support.browser import Shown, executable, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from dynamo_tito.viewer import Page

Show: TypeAlias = "Callable[..., Shown]"


# Playwright's synchronous interface keeps an event loop running in this thread. With a longer scope, tests of other
# modules could not start their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: run make test-view")
    if executable() is None:
        pytest.skip("no Chromium: run make test-view, or set CHROMIUM to the path of one")
    with driver.sync_playwright() as play:
        opened = open_browser(play)
        yield opened
        opened.close()


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens a page; nothing may have gone wrong in it by the end of the test."""
    shown: list[Shown] = []

    def opened(page: Page, **options: Any) -> Shown:
        path = tmp_path / f"page{len(shown)}.html"
        page.save(path)
        shown.append(Shown(chromium, path, **options))
        return shown[-1]

    yield opened
    for one in shown:
        one.close()
