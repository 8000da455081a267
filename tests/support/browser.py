"""A real Chromium: `CHROMIUM`, what `make test-view` installed, or one on the path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

ROOT = Path(__file__).parents[2]
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The path of a Chromium; None where there is none."""
    if named := os.environ.get("CHROMIUM"):
        return named
    own = ROOT / ".chromium" / "chromium"
    if own.exists():
        return str(own)
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def open_browser(play: Playwright) -> Browser:
    """The browser, with the same picture on every machine as far as it can be had."""
    path = executable()
    if path is None:
        raise FileNotFoundError("no Chromium: run make test-view, or set CHROMIUM to the path of one")
    arguments = ["--force-color-profile=srgb", "--font-render-hinting=none", "--hide-scrollbars"]
    # Chromium refuses its sandbox to root. The pages are our own.
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    return play.chromium.launch(executable_path=path, args=arguments)


class Shown:
    """A page in the browser, without a network. What it asks for, and what goes wrong in it, is kept."""

    def __init__(
        self, opened: Browser, path: Path, *, width: int = 1280, height: int = 800, dark: bool = False
    ) -> None:
        context = opened.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", offline=True
        )
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("() => tito.settled()")

    def read(self, name: str, *arguments: Any) -> Any:
        """What the page's test interface says, once everything is drawn."""
        self.settle()
        return self.page.evaluate("([name, given]) => tito[name](...given)", [name, list(arguments)])

    def text(self, selector: str) -> str:
        """The text of one element, once everything is drawn."""
        self.settle()
        found: str = self.page.locator(selector).inner_text()
        return found

    def texts(self, selector: str) -> list[str]:
        """The texts of all such elements, once everything is drawn."""
        self.settle()
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    def close(self) -> None:
        """End it, and see that nothing went wrong and nothing was asked for but the file."""
        self.page.context.close()
        assert not self.wrong
        assert [url for url in self.asked if not url.startswith("file:")] == []
