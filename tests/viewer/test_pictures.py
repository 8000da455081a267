"""The pictures of docs/view.md. `make pictures` writes them; a plain run sees that they can be taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import dynamo_tito as tito
from support import viewing
from support.browser import Shown

from .conftest import Show


def token(shown: Shown) -> None:
    """A sampled token, with what else could have been."""
    shown.page.locator("#tokens").focus()
    shown.page.keyboard.press("]")
    shown.page.keyboard.press("]")
    for key in ["ArrowDown"] * 14 + ["ArrowRight"] * 4:
        shown.page.keyboard.press(key)
    for _ in range(3):
        shown.page.keyboard.press("PageDown")
    shown.page.keyboard.press("ArrowUp")


def routing(shown: Shown) -> None:
    shown.page.locator("#tokens").focus()
    for key in "]]":
        shown.page.keyboard.press(key)
    shown.page.click("#tab-routing")


def comparison(shown: Shown) -> None:
    shown.page.get_by_label("Difference", exact=True).check()
    shown.page.click("#tab-compare")
    shown.settle()
    shown.page.locator("#farthest button").nth(3).click()


def expert(shown: Shown) -> None:
    shown.page.get_by_label("Weights", exact=True).check()
    shown.page.locator("#tokens").focus()
    for key in "]]]]":
        shown.page.keyboard.press(key)
    shown.page.click("#tab-expert")
    shown.settle()
    shown.page.fill("#expert", "17")
    shown.page.keyboard.press("Enter")


PICTURES: dict[str, tuple[Callable[[Shown], None], int, bool]] = {
    "token-light": (token, 1280, False),
    "token-dark": (token, 1280, True),
    "routing-light": (routing, 1280, False),
    "routing-dark": (routing, 1280, True),
    "compare-light": (comparison, 1280, False),
    "compare-dark": (comparison, 1280, True),
    "expert-light": (expert, 1280, False),
    "phone-light": (token, 390, False),
    "phone-dark": (routing, 390, True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(show: Show, tmp_path: Path, name: str) -> None:
    made = viewing.made()
    steps, width, dark = PICTURES[name]
    alone = steps is token
    page = tito.view(
        viewing.completion() if alone else made.sample,
        against=None if alone else made.other,
        tokenizer=viewing.tokenizer(),
        title="response.json" if alone else "rollout",
        num_experts=viewing.EXPERTS,
        dense_layers=(0,) if alone else (),
    )
    shown = show(page, width=width, height=800, dark=dark)
    steps(shown)
    shown.settle()
    into = Path(os.environ["PICTURES"]) if "PICTURES" in os.environ else tmp_path
    into.mkdir(parents=True, exist_ok=True)
    shown.page.screenshot(path=into / f"{name}.png", full_page=width < 800)
    assert (into / f"{name}.png").stat().st_size > 10_000
