"""The modules of the page's program as one script, because a page without a network cannot import."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([a-z]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_LEFT = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)

_MAIN = "app"


def script(assets: Traversable) -> str:
    """The program: every module that ``app.js`` needs, after those that it imports, each in a function of its own.

    Raises:
        ValueError: a module with another form of import or export, a circle, or text that would end the script.
    """
    done: dict[str, str] = {}
    _add(assets, _MAIN, done, ())
    program = '"use strict";\n(() => {\n' + "".join(done.values()) + "})();\n"
    if "</script" in program.lower() or "<!--" in program:
        raise ValueError("the program has text that ends a script element")
    return program


def _add(assets: Traversable, name: str, done: dict[str, str], above: tuple[str, ...]) -> None:
    if name in done:
        return
    if name in above:
        raise ValueError(f"modules import each other: {' -> '.join((*above, name))}")
    text = (assets / f"{name}.js").read_text(encoding="utf-8")
    for _, imported in _IMPORT.findall(text):
        _add(assets, imported, done, (*above, name))
    exported = ", ".join(found for _, found in _EXPORT.findall(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = $\2;\n", text))
    if left := _LEFT.search(body):
        raise ValueError(f"{name}.js: only imports of names from a module beside it: {left[0].strip()}")
    done[name] = f"const ${name} = (() => {{\n{body}return {{ {exported} }};\n}})();\n"
