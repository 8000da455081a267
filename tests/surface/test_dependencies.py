"""The metadata declares what the package imports, and the command says which extra it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "dynamo_tito"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Frameworks that the caller has: a test fixture of the embedded engine, and tensors.
OPTIONAL = {"pytest", "torch"}


#: Modules that are named otherwise than their distribution.
MODULES = {"opentelemetry-api": "opentelemetry", "prometheus-client": "prometheus_client"}


def named(requirements: list[str]) -> set[str]:
    found = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]
    return {MODULES.get(name, name) for name in found}


def imported() -> dict[str, set[str]]:
    """Top-level modules of other distributions, with the files that import them."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "dynamo_tito":
                    found.setdefault(top, set()).add(str(file.relative_to(PACKAGE)))
    return found


def test_every_import_is_declared() -> None:
    declared = named(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared |= named(extra)
    undeclared = {name: files for name, files in imported().items() if name not in declared | OPTIONAL}
    assert not undeclared


def test_a_plain_install_brings_three_others() -> None:
    assert named(PROJECT["dependencies"]) == {"h11", "numpy", "tenacity"}


def test_every_floor_is_named() -> None:
    everything = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    assert all(">=" in requirement for requirement in everything)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_names_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from dynamo_tito.cli import main; sys.argv = ['x']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dynamo-tito needs {missing}: install the extra with  pip install 'dynamo-tito[cli]'\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dynamo_tito", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "decode" in done.stdout


def test_one_module_imports_the_compiled_core() -> None:
    pattern = re.compile(r"^\s*(from \S*_core import|(from \S+ )?import .*\b_core\b)", re.MULTILINE)
    assert {file.name for file in PACKAGE.rglob("*.py") if pattern.search(file.read_text())} == {"_native.py"}
