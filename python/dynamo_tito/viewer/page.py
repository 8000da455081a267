"""The page: one HTML document that asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import script
from .columns import Column, pack

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from dynamo_tito._types import Int32Array

_ASSETS = files(__package__) / "assets"
_FRAME_HEIGHT = 760
"""Pixels of the page in a notebook."""


@dataclass(frozen=True, slots=True)
class Section:
    """One sequence of a page.

    Attributes:
        name: what the reader calls it.
        said: what the page must know of it, without its columns.
        first: the columns that the first picture needs.
        later: the others.
    """

    name: str
    said: dict[str, Any]
    first: list[Column]
    later: list[Column]

    def manifest(self) -> dict[str, Any]:
        """``said`` with the headers of the columns."""
        return {**self.said, "columns": {column.name: column.header() for column in (*self.first, *self.later)}}


class Page:
    """A self-contained HTML page. A notebook shows it in place, in a frame that has no access to the notebook.

    Attributes:
        title: of the page.
    """

    def __init__(self, title: str, sections: Sequence[Section], ids: Int32Array, texts: list[str] | None) -> None:
        # A file's name may have bytes that are no text.
        self.title = title.encode(errors="replace").decode()
        self._sections = sections
        self._vocabulary = pack("vocabulary", ids)
        self._texts = texts

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self._sections)} sequences)"

    @cached_property
    def html(self) -> str:
        """The document."""
        return b"".join(self._parts()).decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document to a file."""
        with Path(path).open("wb") as file:
            file.writelines(self._parts())

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
            f'style="width:100%;height:{_FRAME_HEIGHT}px;border:0"></iframe>'
        )

    def _parts(self) -> Iterator[bytes]:
        """The document in pieces: what the first picture needs, the program, and the rest of the data."""
        style, program = _asset("style.css"), script(_ASSETS)
        policy = (
            f"default-src 'none'; script-src '{_digest(program)}'; style-src '{_digest(style)}'; "
            "base-uri 'none'; form-action 'none'"
        )
        before, after = _asset("page.html").split("<!-- data -->")
        head = before.replace("{{policy}}", policy).replace("{{style}}", style)
        yield head.replace("{{title}}", html.escape(self.title)).encode()
        manifest = {
            "title": self.title,
            "vocabulary": self._vocabulary.header(),
            "sections": [section.manifest() for section in self._sections],
        }
        yield _data("manifest", manifest)
        yield _data("texts", self._texts)
        yield from _blocks("v", self._vocabulary)
        yield from _columns(0, self._sections[0].first)
        yield f"<script>{program}</script>\n".encode()
        yield from _columns(0, self._sections[0].later)
        for number, section in enumerate(self._sections[1:], 1):
            yield from _columns(number, [*section.first, *section.later])
        yield after.encode()


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(name: str, value: Any) -> bytes:
    """A block of JSON in ASCII. No text in it can end the block or begin another one."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'.encode("ascii")


def _columns(section: int, columns: Sequence[Column]) -> Iterator[bytes]:
    for column in columns:
        yield from _blocks(f"s{section}", column)


def _blocks(prefix: str, column: Column) -> Iterator[bytes]:
    for number, block in enumerate(column.blocks):
        yield f'<script type="text/plain" id="{prefix}-{column.name}-{number}">'.encode()
        yield block
        yield b"</script>\n"
