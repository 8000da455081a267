"""Write LICENSE-crates.txt: the licence texts of the crates that the extension links. A distribution carries it.

python3 tools/release/licences.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "LICENSE-crates.txt"

_HEAD = "The extension module links these crates. Each text is under the names of those that carry it.\n"
_RULE = "=" * 80
_TARGETS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
)
#: As crates name these files, also those of sources that they bring along. What is named COPYING is a choice not taken.
_NAMED = re.compile(r"(licen[cs]e|notice|copyright|unlicense)([-_.].*)?", re.IGNORECASE)


def linked(target: str) -> Iterator[dict[str, Any]]:
    """The packages that end up in an extension for a target: no build scripts, no macros, no tests."""
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "metadata", "--format-version=1", "--locked", f"--filter-platform={target}"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    seen, new = {root}, [root]
    while new:
        for dependency in nodes[new.pop()]["deps"]:
            name = dependency["pkg"]
            macro = any("proc-macro" in made["kind"] for made in packages[name]["targets"])
            if name in seen or macro or all(kind["kind"] for kind in dependency["dep_kinds"]):
                continue
            seen.add(name)
            new.append(name)
            yield packages[name]


def collected() -> str:
    """The file: each text once, with the crates that carry it."""
    carried: dict[str, set[str]] = {}
    for package in {package["id"]: package for target in _TARGETS for package in linked(target)}.values():
        folder = Path(package["manifest_path"]).parent
        name = f"{package['name']} {package['version']}, {package['license']}"
        texts = {_text(file) for file in folder.rglob("*") if file.is_file() and _NAMED.fullmatch(file.name)}
        if not texts:
            raise ValueError(f"{name}: carries no text of its licence")
        for text in texts:
            carried.setdefault(text, set()).add(name)
    parts = [_HEAD]
    for text, names in sorted(carried.items(), key=lambda item: (sorted(item[1]), item[0])):
        parts.append("".join(f"  {name}\n" for name in sorted(names)) + f"\n{text}\n")
    return f"\n{_RULE}\n\n".join(parts)


def _text(file: Path) -> str:
    lines = file.read_text("utf-8", errors="replace").strip("\n\f").splitlines()
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    WRITTEN.write_text(collected(), "utf-8")
