"""How the time grows with the tokens, 1k to 256k, on one chart."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benches import cases
from benches.cases import Case
from benches.measure import Table, Times, interleave, milliseconds, ratio
from benches.rivals import OURS, contenders, prove

_SIZES = [1 << power for power in range(10, 19)]
_RIVALS = ("renderers + verifiers", "pysimdjson, blob apart", OURS)

_CURVES: dict[str, Callable[[int], Case]] = {
    # As c_vllm_noexp and c_vllm are.
    "without routed experts": lambda tokens: Case("vllm", tokens, tokens - tokens // 128),
    "with routed experts, 48 layers x top-8": lambda tokens: Case("vllm", tokens, tokens // 4, 48, 8),
}


def tables(rounds: int, chart: Path | None = None) -> Iterator[Table]:
    """A table per curve; the chart of both, if a path is given."""
    curves = {title: _measure(case_of, rounds) for title, case_of in _CURVES.items()}
    for title, times in curves.items():
        yield _table(title, times)
    if chart is not None:
        _draw(curves, chart)


def _measure(case_of: Callable[[int], Case], rounds: int) -> dict[str, list[list[float]]]:
    """Times by contender and size, all sizes in the same rounds."""
    calls: dict[str, Callable[[], object]] = {}
    for tokens in _SIZES:
        case = case_of(tokens)
        body, truth = cases.make(case)
        ways = contenders(case)
        for name in _RIVALS:
            prove(ways[name], body, case, truth)
            calls[f"{name}/{tokens}"] = functools.partial(ways[name], body, case.prompt)
    times: Times = interleave(calls, rounds)
    return {name: [times[f"{name}/{tokens}"] for tokens in _SIZES] for name in _RIVALS}


def _table(title: str, times: dict[str, list[list[float]]]) -> Table:
    ours = times[OURS]
    factors = [ratio(large, small) for small, large in itertools.pairwise(ours)]
    rows = []
    for place, tokens in enumerate(_SIZES):
        median = statistics.median(ours[place])
        doubled = f"{factors[place - 1]:.2f}" if place else ""
        rows.append([f"{tokens // 1024}k", milliseconds(median), f"{median / tokens * 1e6:.0f}", doubled])
    note = "Doubling the tokens multiplies the time by what the last column says (median of paired ratios)."
    return Table(f"Growth, {title}", ["tokens", "ms", "ns a token", "factor"], rows, note, factors)


_STYLES = {
    "renderers + verifiers": ("#b0453a", "s"),
    "pysimdjson, blob apart": ("#8a8a8a", "^"),
    OURS: ("#1f5fa8", "o"),
}


def _draw(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = figure.subplots(1, len(curves), sharey=True)
        for panel, (title, times) in zip(panels, curves.items(), strict=True):
            for name, columns in times.items():
                color, marker = _STYLES[name]
                medians = [statistics.median(column) for column in columns]
                panel.plot(_SIZES, medians, color=color, marker=marker, markersize=4.5, label=name)
            panel.set_title(title, loc="left", fontsize=11)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(_SIZES, [f"{tokens // 1024}k" for tokens in _SIZES])
            panel.yaxis.set_major_locator(LogLocator(numticks=12))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.grid(visible=True, color="#e4e4e4", linewidth=0.7)
            panel.set_axisbelow(True)
            panel.set_xlabel("tokens of prompt and completion")
        panels[0].set_ylabel("milliseconds")
        panels[0].legend(frameon=False, loc="upper left")
        figure.savefig(path, dpi=110, metadata={"Software": None})
