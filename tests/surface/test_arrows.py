"""Imports of the Rust core: a module imports only modules of lower layers. Run as a script, this prints them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"

# From the ground up. Modules of one layer do not import each other.
LAYERS = [
    ["error", "limits", "priority"],
    ["options"],
    ["memory"],
    ["base64", "divergence", "http", "json", "request", "routing"],
    ["experts"],
    ["artifact"],
    ["wire"],
    ["decode", "stream"],
    ["python"],
]

# What the slow decoder may share with the one that it judges: the types of errors and options, and the limits.
SHARED = {
    "Class",
    "Error",
    "ExpertsMode",
    "FinalRow",
    "Limits",
    "LogprobsDtype",
    "MissingLogprob",
    "Options",
    "Result",
    "Wire",
    "limits",
}

Module = tuple[str, ...]


def product(path: Path) -> str:
    """The code of a file, without comments and without its tests, which stand at its end."""
    code = re.sub(r"//.*", "", path.read_text())
    return re.split(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*mod \w+ \{", code)[0]


def module(path: Path) -> Module:
    """The path of the module that a file is."""
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return parts[:-1] if parts[-1] in ("mod", "lib") else parts


def names(tree: str) -> list[Module]:
    """The paths of a use tree: ``a::{b, c::d}`` is a::b and a::c::d."""
    head, brace, rest = tree.partition("{")
    stem = tuple(part for part in head.strip().split("::") if part)
    if not brace:
        return [stem]
    inner, depth, start, found = rest[: rest.rindex("}")], 0, 0, []
    for at, letter in enumerate(inner + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if part := inner[start:at].strip():
                found += [stem + path for path in names(part)]
            start = at + 1
    return found


def paths(code: str) -> list[Module]:
    """Every path of a file that begins with ``crate`` or ``super``."""
    uses = re.findall(r"\buse\s+((?:crate|super)\b[^;]*);", code)
    inline = re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse\s[^;]*;", "", code))
    return [path for tree in uses + inline for path in names(tree)]


def files() -> dict[Module, Path]:
    """The modules of the core that are no tests."""
    found = (path for path in SOURCES.rglob("*.rs") if not re.search(r"(^|_)tests$", path.stem))
    return {module(path): path for path in found if "tests" not in module(path)}


def exported(code: str) -> dict[str, str]:
    """The module of each name that ``lib.rs`` exports."""
    trees = re.findall(r"\bpub use ([^;]*);", code)
    return {path[-1].split(" as ")[-1]: path[0] for tree in trees for path in names(tree)}


def imports() -> dict[Module, set[Module]]:
    """The modules that each module imports from."""
    modules = files()
    roots = exported(product(modules[()]))
    arrows: dict[Module, set[Module]] = {}
    for here, path in modules.items():
        if not here:
            continue
        arrows[here] = set()
        for first, *parts in paths(product(path)):
            base, rest = () if first == "crate" else here[:-1], parts
            while rest and rest[0] == "super":
                base, rest = base[:-1], rest[1:]
            if not base and rest and (rest[0],) not in modules:
                # Exported by lib.rs, or said in a module that a file holds itself.
                base = (roots[rest[0]],) if rest[0] in roots else here
            target = (*base, *rest)
            while target and target not in modules:
                target = target[:-1]
            if target not in ((), here):
                arrows[here].add(target)
    return arrows


def folders() -> dict[str, set[str]]:
    """The modules that each module imports from."""
    arrows: dict[str, set[str]] = {name: set() for layer in LAYERS for name in layer}
    for here, targets in imports().items():
        arrows.setdefault(here[0], set()).update(target[0] for target in targets if target[0] != here[0])
    return arrows


def test_modules_import_only_lower_layers() -> None:
    """Every module has a layer, and imports from lower ones, so there is no circle."""
    layer = {name: level for level, modules in enumerate(LAYERS) for name in modules}
    upward = [(name, other) for name, others in folders().items() for other in others if layer[other] >= layer[name]]
    assert upward == []


def test_every_module_has_a_layer() -> None:
    """The parser finds the arrows that are known to be there."""
    arrows = folders()
    assert set(arrows) == {module(path)[0] for path in SOURCES.rglob("*.rs") if module(path)}
    assert {"error", "experts", "json", "memory", "options"} <= arrows["wire"]
    assert {"base64", "routing", "wire"} <= arrows["python"]
    assert arrows["error"] == set()


def test_no_kernel_of_base64_imports_the_chooser() -> None:
    """The kernels stand on the table and the scalar code."""
    arrows = {here[1]: targets for here, targets in imports().items() if here[0] == "base64" and len(here) > 1}
    assert ("base64", "table") in arrows["avx2"] & arrows["avx512"] & arrows["neon"] & arrows["portable"]
    choosers = {name for name, targets in arrows.items() if ("base64", "kernel") in targets}
    assert choosers == set()


def test_the_slow_decoder_shares_no_code() -> None:
    """The oracle's decoder takes errors, options and limits from the core, and nothing else."""
    taken = set()
    for path in (ROOT / "oracle/src/reference").rglob("*.rs"):
        if "tests" in path.parts:
            continue
        code = product(path)
        trees = re.findall(r"\buse\s+(dynamo_tito\b[^;]*);", code)
        inline = re.findall(r"\bdynamo_tito(?:::\w+)+", re.sub(r"\buse\s[^;]*;", "", code))
        taken |= {name[1] for tree in trees + inline for name in names(tree)}
    assert {"Error", "Options", "limits"} <= taken
    assert taken <= SHARED


def main() -> None:
    """Print the arrows, then every pair of files that import each other: only files of one folder may."""
    arrows = folders()
    for layer in reversed(LAYERS):
        for name in layer:
            sys.stdout.write(f"{name:12} -> {', '.join(sorted(arrows[name])) or '-'}\n")
    modules = imports()
    pairs = {tuple(sorted((here, to))) for here, targets in modules.items() for to in targets if here in modules[to]}
    for one, other in sorted(pairs):
        sys.stdout.write(f"{'::'.join(one)} <-> {'::'.join(other)}\n")


if __name__ == "__main__":
    main()
