"""The page of keys, ``docs/wires.md``: it has every key of every recorded answer, and agrees with the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dynamo_tito as tito

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
WIRES = ROOT / "src" / "wire"
PAGE = (ROOT / "docs" / "wires.md").read_text("utf-8")

EVERY = "Every wire"
#: The section of each wire, the file of its tables, and the table of its top level.
TABLES = {
    "dynamo": ("dynamo.rs", "Body"),
    "vllm": ("vllm.rs", "Body"),
    "vllm_completions": ("vllm_completions.rs", "Body"),
    "sglang": ("sglang.rs", "Element Chat Chunk"),
}


class Row(NamedTuple):
    """A key of the page."""

    path: str
    decoder: str

    @property
    def whole(self) -> bool:
        """Whether it stands for what is in the value, too."""
        return self.path.endswith("…")


def section_of(wire: str) -> str:
    return wire if wire in TABLES else wire.split("_", maxsplit=1)[0]


def sections() -> dict[str, list[Row]]:
    """The rows of each section by its first wire's family."""
    found: dict[str, list[Row]] = {}
    for part in PAGE.split("\n## ")[1:]:
        title, text = part.split("\n", 1)
        wires = re.findall(r"`(\w+)`", title)
        rows = [line.split(" | ") for line in text.split("\n") if line.startswith("| `")]
        found[section_of(wires[0]) if wires else EVERY] = [
            Row(path, cells[2].removesuffix(" |")) for cells in rows for path in re.findall(r"`([^`]+)`", cells[0])
        ]
    return found


SECTIONS = sections()


def tables(file: str) -> dict[str, list[tuple[str, str]]]:
    """The tables of a file: members with the type that each is read as."""
    code = re.sub(r"^\s*//.*\n", "", (WIRES / file).read_text(), flags=re.MULTILINE)
    found = {}
    for name, members in re.findall(r"fields! \{\n    (\w+) \{\n(.*?)\n    \}\n\}", code, re.DOTALL):
        found[name] = re.findall(r"^        (\w+): (.+?) = ", members, re.MULTILINE)
    return found


def read_by(file: str, names: str) -> set[str]:
    """The paths of what a file's tables name."""
    known = tables(file) | tables("upload.rs")

    def paths(table: str) -> Iterator[str]:
        for member, kind in known[table]:
            if kind == "Inline":
                inner, below = "Upload", member
            elif part := re.fullmatch(r"Part<(Choices<)?(\w+)>+", kind):
                inner, below = part[2], member + ("[]" if part[1] else "")
            else:
                inner, below = "", member
            yield member
            if inner in known:
                yield from (f"{below}.{path}" for path in paths(inner))

    # On the page meta_info stands once.
    return {path.replace("choices[].meta_info", "meta_info") for name in names.split() for path in paths(name)}


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Every path of a document; a number as a key is an id."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            name = "ID" if key.isdigit() else key
            inner = f"{path}.{name}" if path else name
            yield inner
            yield from keys(member, inner)
    elif isinstance(value, list):
        for element in value:
            yield from keys(element, f"{path}[]")


def documents(path: Path) -> list[Any]:
    """The JSON of a file, or of each event of a stream."""
    text = path.read_text("utf-8")
    if path.suffix == ".sse":
        lines = (line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:"))
        return [json.loads(line) for line in lines if line.startswith("{")]
    try:
        document = json.loads(text)
    except ValueError:
        return []
    return document if isinstance(document, list) else [document]


def recorded() -> Iterator[tuple[Path, str]]:
    """Recorded answers, each with its wire."""
    for path in sorted(DATA.rglob("*")):
        if path.suffix not in (".json", ".sse") or path.name == "index.json":
            continue
        try:
            wire, _ = tito.detect_wire(path.read_bytes())
        except tito.TitoError:
            continue
        # With text it looks like one of completions.
        is_generate = any("output_mode" in document for document in documents(path))
        yield path, "vllm_generate" if is_generate else wire


def lists(rows: list[Row], path: str) -> bool:
    """Whether a row is of the path, or stands for what is around it."""
    return any(
        path == row.path
        or (row.whole and (path + ".").startswith(row.path.removesuffix("…").removesuffix(".") + "."))
        or (row.whole and path.startswith(row.path.removesuffix(".…") + "[]"))
        for row in rows
    )


def test_the_page_has_every_key_of_every_recorded_answer() -> None:
    seen: dict[str, dict[str, str]] = {section: {} for section in TABLES}
    for path, wire in recorded():
        section = section_of(wire)
        for document in documents(path):
            for key in keys(document):
                seen[section].setdefault(key.replace("choices[].meta_info", "meta_info"), path.name)
    assert all(len(found) > 20 for found in seen.values()), {section: len(found) for section, found in seen.items()}
    missing = {
        f"{section}: {key}": name
        for section, found in seen.items()
        for key, name in found.items()
        if not lists(SECTIONS[section] + SECTIONS[EVERY], key)
        # Ids and numbers of positions are no keys.
        and not key.endswith(".ID")
    }
    assert missing == {}


@pytest.mark.parametrize("section", TABLES)
def test_what_is_read_is_named_by_the_tables_and_nothing_else(section: str) -> None:
    named = read_by(*TABLES[section])
    assert len(named) > 15
    rows = SECTIONS[section]
    on_page = {row.path: row for row in rows}
    used = {path: row for path, row in on_page.items() if not row.decoder.startswith("ignores")}
    # A key inside a value that a reader takes whole is named by no table.
    unnamed = {
        path
        for path in used
        if path not in named and not any(re.match(re.escape(outer) + r"(\.|\[)", path) for outer in named)
    }
    assert unnamed == set()
    assert named - used.keys() == set()
    assert {row.path for row in rows if row.decoder.startswith("ignores")} & named == set()
    for row in rows:
        assert re.match(r"(reads|passes on|judges|refuses|ignores: .)", row.decoder), row


BODIES: dict[str, Any] = {
    "dynamo_chat": {"choices": [{}], "nvext": {"engine_data": {"completion_token_ids": [7]}}},
    "vllm_generate": {"choices": [{"token_ids": [7]}]},
    "vllm_completions": {"choices": [{"token_ids": [7], "text": ""}]},
    "sglang_generate": {"output_ids": [7], "meta_info": {}},
    "sglang_chat": {"choices": [{"response_token_ids": [7], "meta_info": {}}]},
}
REFUSED = [
    (wire, row.path, kind)
    for wire in BODIES
    for row in SECTIONS[section_of(wire)]
    for kind in re.findall(r"^refuses: `(\w+)`$", row.decoder)
    if (wire == "sglang_chat") == row.path.startswith("choices") or not wire.startswith("sglang")
]


@pytest.mark.parametrize(("wire", "path", "kind"), REFUSED)
def test_what_is_refused(wire: tito.Wire, path: str, kind: str) -> None:
    body = json.loads(json.dumps(BODIES[wire]))
    tito.decode(json.dumps(body).encode(), wire=wire, require_logprobs=False)
    *outer, last = path.replace("[]", ".0").split(".")
    place = body
    for key in outer:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = "AAAA"
    with pytest.raises(tito.TitoError) as caught:
        tito.decode(json.dumps(body).encode(), wire=wire, require_logprobs=False)
    assert isinstance(caught.value, tito.DecodeError)
    assert caught.value.kind == kind
    assert caught.value.path == path.replace("[]", "[0]")


def test_refused_keys_are_tried() -> None:
    assert {wire for wire, _, _ in REFUSED} == BODIES.keys()
