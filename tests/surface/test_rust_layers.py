"""No module of the core imports one of a layer above it, and no circle of imports leaves its folder.

``python tests/surface/test_rust_layers.py`` prints the imports between the modules.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[2] / "src"

#: From the ground up. A module imports modules of the layers before its own, and of its own folder.
LAYERS = [
    {"error", "limits", "options"},
    {"memory"},
    {"json", "base64"},
    {"experts"},
    {"wire"},
    {"decode", "divergence", "request", "encode", "routing"},
    {"python"},
]

Path_: TypeAlias = tuple[str, ...]

PATH = re.compile(r"(?<![\w:])(?:crate|super)::[\w:]*(?:\{|\w)")


def modules(root: Path = ROOT) -> dict[Path_, str]:
    """The code of every module, without comments, strings and tests."""
    found = {}
    for file in sorted(root.rglob("*.rs")):
        parts = file.relative_to(root).with_suffix("").parts
        if parts == ("lib",) or "tests" in parts or parts[-1].endswith("_tests"):
            continue
        text = re.sub(r"//.*|\"(?:\\.|[^\"\\])*\"", "", file.read_text())
        found[parts[:-1] if parts[-1] == "mod" else parts] = re.split(r"#\[cfg\(test\)\]\s*mod \w+ \{", text)[0]
    return found


def tree(text: str, at: int) -> Iterator[str]:
    """The paths of a use tree, ``a::{b, c::d}`` as ``a::b`` and ``a::c::d``."""
    head = re.compile(r"[\w:]*").match(text, at)
    assert head is not None
    if text[head.end() : head.end() + 1] != "{":
        yield head[0]
        return
    start = at = head.end() + 1
    depth = 0
    while True:
        char = text[at]
        if depth == 0 and char in ",}":
            item = start + len(text[start:at]) - len(text[start:at].lstrip())
            if text[item:at].strip():
                for rest in tree(text, item):
                    yield head[0] + rest
            start = at + 1
            if char == "}":
                return
        depth += (char == "{") - (char == "}")
        at += 1


def exports() -> dict[str, str]:
    """Names that ``lib.rs`` exports, with their module."""
    text = (ROOT / "lib.rs").read_text()
    named = {}
    for use in re.finditer(r"pub(?:\(crate\))? use (\w+)::", text):
        for path in tree(text, use.start(1)):
            named[path.rpartition("::")[2]] = use[1]
    return named


def imports() -> dict[Path_, set[Path_]]:
    """What each module imports of the core."""
    code, exported = modules(), exports()
    found: dict[Path_, set[Path_]] = defaultdict(set)
    for module, text in code.items():
        for match in PATH.finditer(text):
            for path in tree(text, match.start()):
                absolute = resolve(module, path.split("::"))
                if absolute and absolute[0] in exported and (absolute[0],) not in code:
                    absolute = (exported[absolute[0]],)
                while absolute and absolute not in code:
                    absolute = absolute[:-1]
                if absolute and absolute != module:
                    found[module].add(absolute)
    return found


def resolve(module: Path_, path: list[str]) -> Path_:
    if path[0] == "crate":
        return tuple(path[1:])
    while path and path[0] == "super":
        module, path = module[:-1], path[1:]
    return (*module, *path)


def folder(module: Path_) -> Path_:
    return module if (ROOT.joinpath(*module) / "mod.rs").exists() else module[:-1]


def test_every_module_has_a_layer() -> None:
    assert {module[0] for module in modules()} <= set().union(*LAYERS)


def test_imports_point_downwards() -> None:
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upwards = [
        f"{'::'.join(module)} -> {'::'.join(used)}"
        for module, others in imports().items()
        for used in others
        if rank[module[0]] < rank[used[0]]
    ]
    assert not upwards


def test_no_circle_leaves_its_folder() -> None:
    graph = imports()

    def reaches(start: Path_, goal: Path_) -> bool:
        seen, left = {start}, [start]
        while left:
            for used in graph.get(left.pop(), set()) - seen:
                seen.add(used)
                left.append(used)
        return goal in seen

    circles = [
        f"{'::'.join(module)} -> {'::'.join(used)}"
        for module, others in sorted(graph.items())
        for used in sorted(others)
        if folder(module) != folder(used) and reaches(used, module)
    ]
    assert not circles


def test_use_trees_are_read() -> None:
    assert [*tree("crate::{a::B, c::{d, e::F},\n g};", 0)] == [
        "crate::a::B",
        "crate::c::d",
        "crate::c::e::F",
        "crate::g",
    ]
    assert resolve(("wire", "read", "ids"), ["super", "super", "judge", "mask"]) == ("wire", "judge", "mask")
    assert ("json",) in {used[:1] for used in imports()[("experts", "container")]}


if __name__ == "__main__":
    for importer, used in sorted(imports().items()):
        print("::".join(importer), "->", ", ".join(sorted("::".join(path) for path in used)))
