"""Roles of Sphinx in docstrings, as the site shows them: names in code, and links where a name has an entry."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))

# Beside this file, which is loaded by its path.
from pages import public_names

_ROLE = re.compile(r":(attr|class|data|exc|func|meth|mod|obj):`~?\.?([^`]+)`")

_ENTRIES = {name for names in public_names().values() for name in names}
_FULL = {name.removeprefix("dynamo_tito."): name for name in _ENTRIES} | {name: name for name in _ENTRIES}


class Roles(griffe.Extension):
    """Replaces the roles of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """After an object was read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_shown, obj.docstring.value)


def _shown(match: re.Match[str]) -> str:
    role, named = match[1], match[2]
    owner, _, member = named.rpartition(".")
    for name, rest in ((named, ""), (owner, f".{member}")):
        # An attribute is described where its class is, without an entry of its own.
        if name in _FULL and (role != "attr" or not rest):
            return f"[`{named.removeprefix('dynamo_tito.')}`][{_FULL[name]}{rest}]"
    return f"`{named}`"
