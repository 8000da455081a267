"""Write the pages of the site: those of docs/, files of the repository, and a reference of the public names.

python tools/pages.py FOLDER

README.md is the start page. CHANGELOG.md, CONTRIBUTING.md and SECURITY.md are pages. Each public name has an entry in
one page of the reference. Links between these files become links between the pages.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]

AT_THE_ROOT = {"README.md": "index.md", "CHANGELOG.md": "", "CONTRIBUTING.md": "", "SECURITY.md": ""}
"""The files that are pages, and the name of the page where it is another."""

GROUPS: dict[str, tuple[str, list[str]]] = {
    "decoding": (
        "Decoding",
        [
            "decode",
            "decode_choices",
            "decode_prompt_logprobs",
            "decode_artifact",
            "detect_wire",
            "StreamDecoder",
            "StreamDelta",
            "encode_request",
            "encode_token_ids",
            "encode_routed_experts",
            "divergence",
            "logprobs_report",
            "LogprobsReport",
            "LogprobsChecks",
            "Body",
            "Limits",
            "Wire",
            "configure_memory",
            "memory_stats",
            "trim_memory",
            "build_info",
        ],
    ),
    "completions": (
        "Completions",
        [
            "Completion",
            "RoutedExperts",
            "TopLogprobs",
            "PromptLogprobs",
            "SamplingMask",
            "IndexerTopk",
            "Timing",
            "Divergence",
            "EngineInfo",
            "CacheHit",
            "CachedTokens",
            "RequestMetrics",
            "RequestTiming",
            "SpeculativeDecoding",
            "WorkerIds",
            "SampleBatch",
        ],
    ),
    "clients": (
        "Clients",
        [
            "TitoClient",
            "AsyncTitoClient",
            "TitoStream",
            "AsyncTitoStream",
            "connect",
            "ClientOptions",
            "GenerateOptions",
            "ScoreOptions",
            "StreamOptions",
            "RendererTransport",
            "SamplingDefaults",
            "RetryPolicy",
        ],
    ),
    "http": (
        "HTTP engines",
        [
            "HttpEngine",
            "AsyncHttpEngine",
            "StreamingHttpEngine",
            "AsyncStreamingHttpEngine",
            "Exchange",
            "HttpRequest",
            "HttpResponse",
            "MockTransport",
        ],
    ),
    "observing": (
        "Viewing and counting",
        ["view", "Page", "instrument", "Instrumentation", "replay"],
    ),
}
"""The pages of the names of ``dynamo_tito``, but for the errors: those are what ends in "Error"."""

MODULES = ["rollout", "control", "weights", "simulator"]
"""The public modules; a page each."""


def public_names() -> dict[str, list[str]]:
    """The full public names on each page of the reference, in their order."""
    package = import_module("dynamo_tito")
    pages = {page: [f"dynamo_tito.{name}" for name in names] for page, (_, names) in GROUPS.items()}
    pages["errors"] = [f"dynamo_tito.{name}" for name in package.__all__ if name.endswith("Error")]
    for module in MODULES:
        names = import_module(f"dynamo_tito.{module}").__all__
        pages[module] = [f"dynamo_tito.{module}.{name}" for name in names]
    return pages


def pages() -> dict[str, str]:
    """The text of each page that has no file in docs/, by its name."""
    texts = {page or name: _linked((ROOT / name).read_text("utf-8"), ROOT) for name, page in AT_THE_ROOT.items()}
    texts |= {f"reference/{page}.md": _reference(page, names) for page, names in public_names().items()}
    return texts | {"reference/index.md": _index()}


def main() -> None:
    """Write all pages into a folder."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs", out)
    for path in out.glob("*.md"):
        path.write_text(_bare(_linked(path.read_text("utf-8"), ROOT / "docs")), "utf-8")
    for name, text in pages().items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text, "utf-8")


def _bare(text: str) -> str:
    """Blocks of code that name their language alone: what else tests read behind it is no block for the site."""
    return re.sub(r"^(```\w+) .+$", r"\1", text, flags=re.MULTILINE)


def _linked(text: str, folder: Path) -> str:
    """Links to files that are pages lead to the pages; links to other files become their names."""

    def linked(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"a link leads to {target}, which is not there")
        relative = path.relative_to(ROOT).as_posix()
        if relative in AT_THE_ROOT:
            return f"[{words}]({AT_THE_ROOT[relative] or relative}{anchor})"
        return f"[{words}]({relative[5:]}{anchor})" if relative.startswith("docs/") else f"`{relative}`"

    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", linked, text)


def _reference(page: str, names: list[str]) -> str:
    module = import_module(f"dynamo_tito.{page}") if page in MODULES else None
    title = GROUPS[page][0] if page in GROUPS else f"`dynamo_tito.{page}`" if module else "Errors"
    words = f"{module.__doc__}\n\n" if module and module.__doc__ else ""
    return f"# {title}\n\n{words}" + "".join(f"::: {name}\n\n" for name in names)


def _index() -> str:
    rows = []
    for page, names in public_names().items():
        short = (f"`{name.rpartition('.')[2]}`" for name in names)
        rows.append(f"| [{page}]({page}.md) | {', '.join(short)} |\n")
    return "# Reference\n\nEvery public name.\n\n| page | names |\n|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    main()
