"""The page in a real Chromium: what it draws are the numbers of the arrays."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.rollout import Rollout, TrainingSample
from dynamo_tito.simulator.tokenizer import Tokenizer
from support import viewing
from support.browser import Shown
from support.chat import ChatRenderer

from .conftest import Show

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@dataclasses.dataclass(frozen=True)
class Real:
    """A rollout with the embedded engine, the scoring of its sequence, and one completion with alternatives."""

    sample: TrainingSample
    scored: tito.PromptLogprobs
    completion: tito.Completion
    prompt: list[int]


@pytest.fixture(scope="module")
def real() -> Real:
    with (
        simulator.running(backend="vllm", num_layers=6, top_k=3, num_experts=40) as engine,
        tito.TitoClient(engine.url, model=None, experts="native") as client,
    ):
        rollout = Rollout(ChatRenderer())
        for text in ("one", "two", "three"):
            request = rollout.request([{"role": "user", "content": text}])
            rollout.append(client.generate(**request, sampling_params={"max_tokens": 60}))
        sample = rollout.sample()
        prompt = list(range(50, 90))
        completion = client.generate(prompt, sampling_params={"max_tokens": 50, "logprobs": 4})
        return Real(sample, client.score(sample.token_ids), completion, prompt)


def nan(values: list[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, np.float64)


def loads(rows: np.ndarray[Any, Any], experts: int) -> np.ndarray[Any, Any]:
    """How often each expert of each layer is named, counted one by one."""
    return np.stack([np.bincount(rows[:, layer].ravel(), minlength=experts) for layer in range(rows.shape[1])])


def focus(shown: Shown, position: int) -> None:
    box = shown.read("box", position)
    shown.page.mouse.click(box["left"] + 3, box["top"] + 10)


def facts(shown: Shown, panel: str) -> dict[str, str]:
    return dict(zip(shown.texts(f"#{panel} dt"), shown.texts(f"#{panel} dd"), strict=True))


def test_a_real_rollout(show: Show, real: Real) -> None:
    sample = real.sample
    shown = show(tito.view(sample, against=real.scored, tokenizer=Tokenizer(32_000)))
    assert shown.read("column", "ids") == sample.token_ids.tolist()
    assert shown.read("column", "mask") == sample.mask.astype(int).tolist()
    np.testing.assert_array_equal(nan(shown.read("column", "logprobs")), sample.logprobs)
    np.testing.assert_array_equal(nan(shown.read("column", "scored")), real.scored.logprobs)
    rows = sample.routed_experts
    assert rows is not None
    assert shown.read("column", "experts") == rows.ravel().tolist()
    assert shown.read("experts", 30) == rows[30].tolist()
    assert [turn[:3] for turn in shown.read("said")["turns"]] == [
        [turn.start, turn.completion_start, turn.end] for turn in sample.turns
    ]
    drawn = shown.read("tokens")
    assert [cell["at"] for cell in drawn] == list(range(len(drawn)))
    words = Tokenizer(32_000)
    for cell in drawn:
        assert cell["text"] == words.decode([int(sample.token_ids[cell["at"]])]).replace("\n", "↵")


def test_the_load_is_that_of_the_chosen_tokens(show: Show, real: Real) -> None:
    sample, rows = real.sample, real.sample.routed_experts
    assert rows is not None
    shown = show(tito.view(sample))
    shown.page.click("#tab-routing")
    load = shown.read("load")
    assert load["rows"] == len(sample)
    assert load["counts"] == loads(rows, load["experts"]).ravel().tolist()

    shown.page.select_option("#side", "sampled")
    shown.page.select_option("#turn", "1")
    chosen = sample.mask.copy()
    turn = sample.turns[1]
    chosen[: turn.start] = chosen[turn.end :] = False
    load = shown.read("load")
    counts = loads(rows[chosen], load["experts"])
    assert load["rows"] == chosen.sum()
    assert load["counts"] == counts.ravel().tolist()
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(load["share"], shares.max(axis=1), rtol=1e-12)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    np.testing.assert_allclose(load["entropy"], -(shares * logs).sum(axis=1) / np.log(load["experts"]), rtol=1e-12)
    assert shown.read("summary")["tokens"] == chosen.sum()
    np.testing.assert_allclose(shown.read("summary")["mean"], sample.logprobs[chosen].mean(), rtol=1e-12)


def test_filters_by_value(show: Show, real: Real) -> None:
    sample = real.sample
    shown = show(tito.view(sample))
    limit = float(np.nanmedian(sample.logprobs))
    shown.page.fill("#most", repr(limit))
    assert shown.read("summary")["tokens"] == int((sample.logprobs <= limit).sum())
    shown.page.keyboard.press("Escape")
    shown.page.click("#clear")
    assert shown.read("summary")["tokens"] == len(sample)


def test_alternatives_and_facts_of_a_token(show: Show, real: Real) -> None:
    completion, before = real.completion, len(real.prompt)
    shown = show(tito.view(completion, prompt_token_ids=real.prompt))
    top = completion.top_logprobs
    assert top is not None
    assert shown.read("column", "ids") == [*real.prompt, *completion.token_ids.tolist()]
    for position in (0, 7, 49):
        ids, logprobs = top[position]
        assert shown.read("alternatives", before + position) == [
            list(pair) for pair in zip(ids.tolist(), logprobs.tolist(), strict=True)
        ]
    focus(shown, before + 7)
    said = facts(shown, "panel-token")
    assert said["id"] == str(completion.token_ids[7])
    assert said["position"] == str(before + 7)
    assert completion.logprobs is not None
    assert float(said["log-probability"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        completion.logprobs[7], rel=1e-5
    )
    cells = shown.texts("#panel-token .list tbody tr td:nth-child(2)")
    assert cells == [str(token) for token in top[7][0]]
    experts = completion.routed_experts
    assert experts is not None
    assert "Marked" not in shown.text("#panel-token")
    shownrows = shown.texts("#panel-token .experts tr")
    assert [[int(cell) for cell in row.split()][1:] for row in shownrows] == experts.array[before + 7].tolist()


def test_two_scorings(show: Show) -> None:
    made = viewing.made()
    sample, other = made.sample, made.other
    shown = show(tito.view(sample, against=other))
    shown.page.get_by_label("Difference", exact=True).check()
    shown.page.click("#tab-compare")
    found = tito.divergence(sample.logprobs, other.logprobs, sample.mask)
    read = shown.read("divergence")
    assert (read["count"], read["skipped"]) == (found.count, 0)
    for name, value in (("mean", found.mean), ("meanAbs", found.mean_abs), ("maxAbs", found.max_abs), ("k3", found.k3)):
        np.testing.assert_allclose(read[name], value, rtol=1e-9)
    rows, others = sample.routed_experts, other.routed_experts
    assert rows is not None
    assert others is not None
    apart = (np.sort(rows, axis=2) != np.sort(others, axis=2)).any(axis=2)
    assert apart.sum() > 100
    assert shown.read("apart") == apart.sum(axis=1).tolist()
    position = int(apart.sum(axis=1).argmax())
    strip = shown.page.locator("#strip").bounding_box()
    assert strip
    shown.page.mouse.click(strip["x"] + strip["width"] * (position + 0.5) / len(sample), strip["y"] + 20)
    shown.page.locator("#tokens").focus()
    while (at := shown.read("state")["focus"]) != position:
        assert abs(at - position) < 5
        shown.page.keyboard.press("ArrowRight" if at < position else "ArrowLeft")
    shown.page.click("#tab-token")
    marked = shown.texts("#panel-token .differs")
    mine, theirs = rows[position].tolist(), others[position].tolist()
    pairs = [sorted(set(one) - set(two)) for one, two in zip(mine, theirs, strict=True)]
    assert sorted(map(int, marked)) == sorted(expert for pair in pairs for expert in pair)
    shown.page.click("#tab-routing")
    assert shown.read("load")["apart"] == apart.sum(axis=0).tolist()
    shown.page.click("#tab-compare")
    shown.page.fill("#apart", "0.05")
    far = np.abs(sample.logprobs - other.logprobs) >= 0.05
    assert shown.read("divergence")["count"] == far.sum()
    first = shown.page.locator("#farthest button").first
    first.click()
    worst = int(np.nanargmax(np.abs(sample.logprobs - other.logprobs)))
    assert shown.read("state")["focus"] == worst
    assert any(cell["at"] == worst for cell in shown.read("tokens"))


def test_one_expert_and_equal_rows(show: Show) -> None:
    sample = viewing.made().sample
    rows = sample.routed_experts
    assert rows is not None
    shown = show(tito.view(sample, num_experts=viewing.EXPERTS))
    shown.page.click("#tab-expert")
    shown.page.fill("#expert", "17")
    shown.page.keyboard.press("Enter")
    route = shown.read("route")
    where = (rows == 17).any(axis=2)
    buckets = np.arange(len(sample)) * route["columns"] // len(sample)
    hits = np.stack([np.bincount(buckets, where[:, layer], route["columns"]) for layer in range(rows.shape[1])])
    assert route["hits"] == hits.ravel().tolist()
    assert route["rows"] == np.bincount(buckets).tolist()
    equal = np.flatnonzero((rows[1:] == rows[:-1]).all(axis=(1, 2))) + 1
    assert np.flatnonzero(shown.read("repeats")).tolist() == equal.tolist()
    assert max(shown.read("repeats")) == 49
    shown.page.click("#tab-routing")
    assert "Zero in every row: layer 0." in shown.text("#heat-summary")
    shown.page.click("#findings summary")
    assert "50 equal rows from row 400 on" in shown.text("#findings")


def test_colours(show: Show) -> None:
    sample = viewing.made().sample
    shown = show(tito.view(sample))
    shown.page.get_by_label("Mask", exact=True).check()
    for cell in shown.read("tokens"):
        assert (cell["fill"] is not None) == sample.mask[cell["at"]]
    shown.page.get_by_label("Weights", exact=True).check()
    shown.page.locator("#tokens").focus()
    shown.page.evaluate("() => tito.settled()")
    while shown.read("state")["focus"] < 1010:
        shown.page.keyboard.press("]")
    shown.page.mouse.move(300, 500)
    for _ in range(8):
        shown.page.mouse.wheel(0, 400)
    _, indices = sample.version_indices()
    cells = shown.read("tokens")
    colours = {(int(indices[cell["at"]]), cell["fill"]) for cell in cells}
    versions = Counter(version for version, _ in colours)
    assert set(versions.values()) == {1}
    shown.page.get_by_label("Log-probability", exact=True).check()
    by_value = sorted((sample.logprobs[cell["at"]], cell["fill"]) for cell in shown.read("tokens") if cell["fill"])
    assert len({fill for _, fill in by_value}) > 3


def test_keyboard(show: Show) -> None:
    sample = viewing.made().sample
    shown = show(tito.view(sample, tokenizer=viewing.tokenizer()))
    keys = shown.page.keyboard
    shown.page.locator("#tokens").focus()
    keys.press("End")
    assert shown.read("state")["focus"] == len(sample) - 1
    assert shown.read("view")[1] == len(sample)
    keys.press("Home")
    for _ in range(3):
        keys.press("ArrowRight")
    keys.press("Shift+ArrowRight")
    keys.press("Shift+ArrowRight")
    assert shown.read("state")["range"] == [3, 6]
    keys.press("Shift+ArrowLeft")
    assert shown.read("state")["range"] == [3, 5]
    assert shown.read("summary")["tokens"] == 2
    assert "position 4" in shown.text("#live")
    keys.press("]")
    assert shown.read("state")["focus"] == sample.turns[0].completion_start
    keys.press("/")
    keys.type("log-probabilities")
    keys.press("Enter")
    text = viewing.tokenizer().decode(sample.token_ids.tolist())
    assert shown.read("state")["find"] == "log-probabilities"
    assert shown.text("#hits") == f"{text.lower().count('log-probabilities')} found"
    at = shown.read("state")["focus"]
    assert "log" in viewing.tokenizer().decode(sample.token_ids[at : at + 3].tolist()).lower()
    keys.press("Escape")
    keys.press("Escape")
    assert shown.read("state")["range"] is None


def test_a_batch(show: Show, real: Real) -> None:
    samples = [viewing.made().sample, real.sample[:50], real.sample[50:130]]
    shown = show(tito.view(samples, names=["long", "first", "second"]))
    shown.page.click("#tab-samples")
    assert len(shown.texts("#samples-table tbody tr")) == 3
    shown.page.get_by_role("button", name="second", exact=True).click()
    assert shown.read("column", "ids") == samples[2].token_ids.tolist()
    assert shown.read("load")["rows"] == 80
    shown.page.get_by_role("button", name="Previous sequence").click()
    np.testing.assert_array_equal(nan(shown.read("column", "logprobs")), samples[1].logprobs)


def test_a_phone(show: Show) -> None:
    shown = show(tito.view(viewing.made().sample), width=360, height=740)
    wide = shown.page.evaluate("() => document.documentElement.scrollWidth")
    assert wide == 360
    for tab in ("routing", "expert", "turns"):
        shown.page.click(f"#tab-{tab}")
        shown.settle()
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") == 360


HOSTILE = [
    "</script><script>window.owned = 1</script>",
    "<img src=x onerror='window.owned = 2'>",
    "<!--<script>",
    "\u202e\u2066reversed",
    "\x00\x1b[31m",
    "{{style}}&lt;",
    "]]>'\"`${window.owned = 3}",
]


class HostileTokenizer:
    """Every token is another attack."""

    def decode(self, ids: list[int]) -> str:
        return HOSTILE[ids[0] % len(HOSTILE)]


def test_texts_of_a_hostile_server_stay_text(show: Show, real: Real) -> None:
    attack = HOSTILE[0]
    completion = dataclasses.replace(
        real.completion,
        finish_reason=attack,
        finish_reason_raw=attack,
        stop_reason=attack,
        request_id=attack,
        usage={attack: attack},
        weight_versions=[{"version": attack, "start": 0, "end": 50}],
    )
    page = tito.view(
        [completion, completion],
        prompt_token_ids=real.prompt,
        tokenizer=HostileTokenizer(),
        title=attack,
        names=[attack, HOSTILE[1]],
    )
    shown = show(page)
    for tab in ("routing", "turns", "samples", "about", "token"):
        shown.page.click(f"#tab-{tab}")
    shown.page.get_by_label("Weights", exact=True).check()
    focus(shown, len(real.prompt) + 3)
    shown.page.keyboard.type("/script")
    shown.settle()
    assert shown.page.evaluate("() => window.owned") is None
    assert shown.page.locator("img").count() == 0
    assert shown.page.title() == attack
    assert shown.text("#title") == attack
    texts = {cell["text"] for cell in shown.read("tokens")}
    assert not any(character in text for text in texts for character in "\u202e\u2066\x00\x1b")
    assert any("\\u{202e}" in text for text in texts)


def test_a_script_that_came_in_would_not_run(show: Show) -> None:
    shown = show(tito.view(viewing.made().sample))
    shown.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.owned = 1";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://127.0.0.1:1/x.png";
          document.body.append(image);
        }"""
    )
    shown.settle()
    assert shown.page.evaluate("() => window.owned") is None
    assert any("Content Security Policy" in text for text in shown.wrong)
    shown.wrong.clear()
    # Chromium announces the request that its policy then blocks.
    shown.asked.clear()


def test_the_interface_for_tests_cannot_be_changed(show: Show) -> None:
    shown = show(tito.view(viewing.made().sample))
    with pytest.raises(Exception, match="Cannot"):
        shown.page.evaluate("() => { 'use strict'; window.tito = 1; }")
    with pytest.raises(Exception, match="Cannot"):
        shown.page.evaluate("() => { 'use strict'; window.tito.column = 1; }")


def test_a_notebook_shows_it_in_a_frame(tmp_path: Path, chromium: Browser) -> None:
    page = tito.view(viewing.made().sample)
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><p>cell</p>{page._repr_html_()}")
    tab = chromium.new_page(offline=True)
    tab.goto(path.as_uri())
    frame = tab.frames[1]
    frame.wait_for_selector("#summary b")
    frame.evaluate("() => tito.settled()")
    assert frame.evaluate("() => tito.column('ids')") == viewing.made().sample.token_ids.tolist()
    assert frame.evaluate("() => window.origin") == "null"
    tab.close()


@pytest.mark.parametrize("dark", [False, True])
def test_accessibility(show: Show, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: run make test-view")
    made = viewing.made()
    page = tito.view([viewing.completion(), made.sample], against=[viewing.completion(), made.other])
    shown = show(page, dark=dark)
    shown.page.locator("#tokens").focus()
    shown.page.keyboard.press("End")
    for tab in shown.page.get_by_role("tab").all():
        tab.click()
        shown.settle()
        found = axe.Axe().run(shown.page).response["violations"]
        assert [(one["id"], one["nodes"][0]["target"]) for one in found] == []


def test_a_browser_that_is_too_old_is_told(chromium: Browser, tmp_path: Path) -> None:
    tito.view(viewing.made().sample).save(tmp_path / "page.html")
    tab = chromium.new_page(offline=True)
    tab.add_init_script("delete window.DecompressionStream")
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("#failed")
    assert "DecompressionStream is not defined" in tab.locator("#failed").inner_text()
    tab.close()


def odd() -> dict[str, tito.Completion]:
    """Completions that have little, or what is at the edge."""
    whole = viewing.completion()
    bare = dataclasses.replace(
        whole, top_logprobs=None, prompt_token_ids=None, routed_experts=None, weight_versions=None, usage=None
    )
    none = np.empty(0, np.int32)
    rows = np.full((5, 2, 1), -1, np.int16)
    rows[:3] = 300
    routes = tito.RoutedExperts(rows, 0, "int16", complete=True)
    few = np.array([1, 2, 2**31 - 1], np.int32)
    top = tito.TopLogprobs(none, np.empty(0), np.zeros(4, np.int64))
    three = dataclasses.replace(bare, token_ids=few, logprobs=np.array([-0.5, np.nan, 0.0]))
    return {
        "nothing": dataclasses.replace(bare, token_ids=none, logprobs=np.empty(0)),
        "one": dataclasses.replace(bare, token_ids=few[:1], logprobs=np.array([-745.0])),
        "no logprobs": dataclasses.replace(bare, logprobs=None),
        "unknown prompt": dataclasses.replace(three, routed_experts=routes),
        "no alternatives": dataclasses.replace(three, top_logprobs=top),
        "late rows": dataclasses.replace(
            three, prompt_token_ids=few, routed_experts=tito.RoutedExperts(rows[:1], 2, "int16", complete=False)
        ),
        "mask": dataclasses.replace(
            three,
            sampling_mask=tito.SamplingMask(np.arange(6, dtype=np.int32), np.array([0, 3, 3, 6])),
            timing=tito.Timing(np.array([0.25, 0.25, 1.5])),
        ),
    }


def test_odd_records(show: Show) -> None:
    records = odd()
    shown = show(tito.view(list(records.values()), names=list(records)))
    for number, name in enumerate(records):
        shown.page.select_option("#sample", str(number))
        shown.settle()
        assert shown.read("said")["name"] == name
        for tab in shown.page.get_by_role("tab").all():
            tab.click()
        shown.page.click("#tab-token")
        shown.page.locator("#tokens").focus()
        for key in ("ArrowRight", "End", "Shift+Home", "PageDown", "n", "]", "["):
            shown.page.keyboard.press(key)
        for mode in shown.page.locator("#modes input").all():
            mode.check()
        shown.page.keyboard.press("Escape")
    assert shown.read("column", "vocabulary")[-1] == 3
    shown.page.select_option("#sample", "3")
    load = shown.read("load")
    assert (load["rows"], sum(load["counts"]), load["experts"]) == (5, 6, 301)
    assert [cell["text"] for cell in shown.read("tokens")] == ["·", "·", "·", "1", "2", "2147483647"]
