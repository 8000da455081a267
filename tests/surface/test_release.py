"""What a release changes in the metadata, and what it compares before it."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "release" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_of_a_released_readme_is_absolute() -> None:
    released = script("metadata").links(README, "https://forge.example/owner/name", "0f0f")
    before, after = (re.findall(r"\]\(([^)\s]+)\)", text) for text in (README, released))
    assert len(before) == len(after) > 10
    for old, new in zip(before, after, strict=True):
        if old.startswith(("https:", "#")):
            assert new == old
        else:
            assert (ROOT / old.split("#")[0]).exists()
            assert new.startswith("https://forge.example/owner/name/")
            assert new.endswith(f"/0f0f/{old}")


def test_the_metadata_gets_urls_once() -> None:
    metadata = script("metadata")
    changed = metadata.urls((ROOT / "pyproject.toml").read_text("utf-8"), "https://forge.example/owner/name")
    assert tomllib.loads(changed)["project"]["urls"]["Issues"] == "https://forge.example/owner/name/issues"
    with pytest.raises(ValueError, match="already"):
        metadata.urls(changed, "https://forge.example/owner/name")


def test_versions_agree() -> None:
    version = script("version")
    assert version.faults("") == []
    assert any("the tag is v999.0.0" in fault for fault in version.faults("v999.0.0"))


def test_licences_are_those_of_what_is_linked() -> None:
    """A crate that only macOS links is among them; what builds, tests or writes code is not."""
    named = set(re.findall(r"^  ([\w-]+) \d+\.\d+\.\S*, ", script("licences").collected(), re.MULTILINE))
    assert {"pyo3", "ring", "security-framework", "simd-json", "zstd-sys"} <= named
    assert not {"cc", "criterion", "dynamo-tito", "proptest", "pyo3-macros", "syn"} & named


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_call_targets_that_exist(path: Path) -> None:
    """And every action of others is pinned by its hash."""
    text = path.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", text)) | set(re.findall(r"\b(test-(?:dynamo|vllm|peers))\b", text))
    assert called <= targets
    for action in re.findall(r"uses: (\S+)", text):
        assert re.search(r"@[0-9a-f]{40}$", action) or action.startswith("$/")
