"""How fast a page opens and scrolls in a real browser: 128k tokens, 48 layers, 8 experts a token.

python -m benches.view [--tokens N]

Needs playwright and a Chromium (`make test-view` installs both). The figures are of this machine and its load.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

import dynamo_tito as tito
from dynamo_tito.rollout import TrainingSample, TurnSpan
from dynamo_tito.rollout.routing import Rows
from support import browser, viewing

LAYERS, SLOTS, EXPERTS = 48, 8, 128
TURN = 4096

#: Paint times, and the longest tasks of the main thread, as the browser itself measures them. The frames' times are
#: those between two callbacks before a frame.
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""

SCROLL = """
async () => {
  const scroller = document.getElementById("tokens");
  const times = [];
  const end = scroller.scrollHeight - scroller.clientHeight;
  let before = await new Promise(requestAnimationFrame);
  for (let step = 0; step < 240; step++) {
    scroller.scrollTop = step < 120 ? step * 90 : (end * (step - 120)) / 119;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}
"""


def sample(count: int) -> TrainingSample:
    """Readable tokens, and routes without a pattern, which compress least."""
    rng = np.random.default_rng(1)
    base = viewing.made().sample
    mask = np.ones(count, np.bool_)
    mask[: count // 8] = False
    logprobs = np.where(mask, -rng.gamma(0.35, 1.6, count), np.nan)
    rows = np.resize(viewing.routes(rng, TURN, LAYERS, SLOTS, EXPERTS), (count, LAYERS, SLOTS)).astype(np.int16)
    rows = ((rows + rng.integers(0, EXPERTS, (count, LAYERS, 1))) % EXPERTS).astype(np.uint8)
    aborted = False
    turns = tuple(
        TurnSpan(start, start, min(start + TURN, count), "stop", None, aborted, None, ())
        for start in range(0, count, TURN)
    )
    return TrainingSample(np.resize(base.token_ids, count), mask, logprobs, Rows([rows]), turns, 0)


def clock(page: Page, script: str) -> float:
    """Milliseconds until what a script starts is drawn."""
    return float(
        page.evaluate(
            f"async () => {{ const from = performance.now(); {script}; await tito.settled();"
            " return performance.now() - from; }"
        )
    )


def measured(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with sync_playwright() as play:
        opened = browser.open_browser(play)
        page = opened.new_page(viewport={"width": 1280, "height": 800}, offline=True)
        page.add_init_script(WATCH)
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("#summary b")
        page.evaluate("() => tito.settled()")
        found["first contentful paint, ms"] = page.evaluate(
            "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        found["tokens drawn, ms"] = page.evaluate("() => performance.getEntriesByName('tokens')[0].startTime")
        found["everything read, ms"] = page.evaluate("() => performance.getEntriesByName('loaded')[0].startTime")
        found["longest task while opening, ms"] = page.evaluate("() => window.longest")
        page.evaluate("() => { window.longest = 0; }")
        times = np.array(page.evaluate(SCROLL))
        found["scrolling: median frame, ms"] = float(np.median(times))
        found["scrolling: longest frame, ms"] = float(times.max())
        found["scrolling: longest task, ms"] = page.evaluate("() => window.longest")
        found["load of every expert over all tokens, ms"] = clock(
            page,
            "document.getElementById('side').value = 'sampled'; "
            "document.getElementById('side').dispatchEvent(new Event('change'))",
        )
        found["one expert over all tokens, ms"] = clock(page, "document.getElementById('tab-expert').click()")
        found["longest task of both, ms"] = page.evaluate("() => window.longest")
        opened.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1 << 17)
    count = parser.parse_args().tokens
    shown = sample(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        since = time.perf_counter()
        tito.view(shown, tokenizer=viewing.tokenizer()).save(path)
        print(f"{'page written, s':<44}{time.perf_counter() - since:8.1f}")
        print(f"{'size, MB':<44}{path.stat().st_size / 1e6:8.1f}")
        for name, value in measured(path).items():
            print(f"{name:<44}{value:8.0f}")


if __name__ == "__main__":
    main()
