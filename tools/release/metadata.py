"""Write the address of the repository into the metadata of a release: project URLs, and the links of the README.

REPOSITORY_URL=https://forge.example/owner/name python3 tools/release/metadata.py

A checkout has relative links, which work on any forge and in a clone. On a package index they would lead nowhere. This
changes pyproject.toml and README.md of the checkout; a release is built from the changed files.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_LINK = re.compile(r"(\]\()(?!https?:|#)([^)\s]+)\)")


def links(text: str, address: str, commit: str) -> str:
    """The text with absolute links in the place of relative ones; pictures by their raw address."""

    def absolute(match: re.Match[str]) -> str:
        kind = "raw" if match[2].endswith((".png", ".svg")) else "blob"
        return f"{match[1]}{address}/{kind}/{commit}/{match[2]})"

    return _LINK.sub(absolute, text)


def urls(text: str, address: str) -> str:
    """The project's metadata with its URLs."""
    table = (
        "[project.urls]\n"
        f'Repository = "{address}"\n'
        f'Documentation = "{address}/tree/main/docs"\n'
        f'Changelog = "{address}/blob/main/CHANGELOG.md"\n'
        f'Issues = "{address}/issues"\n\n'
    )
    if "[project.urls]" in text:
        raise ValueError("pyproject.toml has [project.urls] already")
    return text.replace("[project.optional-dependencies]", f"{table}[project.optional-dependencies]", 1)


def main() -> None:
    """Change both files."""
    address = os.environ.get("REPOSITORY_URL", "").rstrip("/")
    if not address.startswith("https://"):
        sys.exit("REPOSITORY_URL must be the https address of the repository")
    commit = os.environ.get("GITHUB_SHA", "main")
    readme, project = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(links(readme.read_text("utf-8"), address, commit), "utf-8")
    project.write_text(urls(project.read_text("utf-8"), address), "utf-8")


if __name__ == "__main__":
    main()
