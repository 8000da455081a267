"""The trainers' sections of docs/integrations.md: what has prompts runs, the lines that a user changes are Python."""

from __future__ import annotations

import ast
import doctest
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.frameworks import checkout

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
TRAINERS = {"AReaL", "miles", "NeMo-RL", "SkyRL", "slime", "tinker", "TRL", "verl"}
#: Those that have no package.
CHECKOUTS = {"miles", "slime"}
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
BLOCKS = [
    block
    for name in sorted(TRAINERS)
    for block in re.findall(r"```python(?: requires=(\w+))?\n(.*?)```", SECTIONS[name], re.DOTALL)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("framework", "code"), [block for block in BLOCKS if ">>>" in block[1]])
def test_a_block_prints_what_is_shown(framework: str, code: str) -> None:
    if framework in CHECKOUTS:
        checkout(f"{framework.upper()}_DIR", framework)
    elif framework and find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: make test-trainers")
    examples = doctest.DocTestParser().get_doctest(code, {}, framework or "block", PAGE.name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(examples).failed == 0


@pytest.mark.parametrize("code", [code for _, code in BLOCKS if ">>>" not in code])
def test_the_lines_that_change_are_python_and_import_what_exists(code: str) -> None:
    tree = compile(code, PAGE.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(tree, ast.Module)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        scope: dict[str, object] = {}
        exec(ast.unparse(node), scope)
        assert all(scope[alias.name] for alias in node.names)
    modules = {alias.name for node in imports if node.module == "dynamo_tito.integrations" for alias in node.names}
    found: dict[str, object] = {}
    for name in modules:
        exec(f"from dynamo_tito.integrations import {name}", found)
    for used in ast.walk(tree):
        if isinstance(used, ast.Attribute) and isinstance(used.value, ast.Name) and used.value.id in modules:
            assert getattr(found[used.value.id], used.attr)


def test_sections_are_in_order() -> None:
    assert [*SECTIONS] == sorted(SECTIONS, key=str.lower)
