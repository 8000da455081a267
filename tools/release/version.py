"""Compare the version of Cargo.toml with the changelog, and with the tag that is released.

TAG=v0.1.0 python3 tools/release/version.py

Without TAG the changelog must have its section Unreleased, and no section newer than the version.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def faults(tag: str) -> list[str]:
    """What does not agree; empty if all does."""
    version: str = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["package"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    sections = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    found = []
    if sections[:1] != ["Unreleased"]:
        found.append("CHANGELOG.md: the first section is not Unreleased")
    released = [section.split(" ")[0] for section in sections[1:]]
    if tag and tag != f"v{version}":
        found.append(f"the tag is {tag}, Cargo.toml has the version {version}")
    if tag and released[:1] != [version]:
        found.append(f"CHANGELOG.md: the newest release is not {version}; name the section '{version} - YYYY-MM-DD'")
    if released and _numbers(released[0]) > _numbers(version):
        found.append(f"CHANGELOG.md: {released[0]} is newer than the version of Cargo.toml, {version}")
    if not re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE):
        found.append(f"CITATION.cff: the version is not {version}")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


if __name__ == "__main__":
    sys.exit("\n".join(faults(os.environ.get("TAG", ""))) or None)
