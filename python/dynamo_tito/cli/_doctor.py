"""``dynamo-tito doctor``: what a server really does, and what to change on it."""

from __future__ import annotations

import asyncio
import dataclasses
import json as _json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Annotated

import typer

import dynamo_tito as tito
from dynamo_tito.control import Diagnosis, examine

from ._report import printable

_PIPED_WIDTH = 80
_INDENT = 10


def doctor(
    url: Annotated[str, typer.Argument(help="The server, with or without /v1.")],
    model: Annotated[str | None, typer.Option(help="Which model; by default the first one listed.")] = None,
    rl_url: Annotated[str | None, typer.Option(help="Where Dynamo's discovery listens.")] = None,
    api_key_var: Annotated[
        str | None, typer.Option(help="Environment variable that holds the API key.", metavar="NAME")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a server what it really does: wires, streams, routed experts, log-probabilities, discovery, administration.

    Safe on a live server: it samples one token per request and changes nothing. Exit status 1: something is to be
    changed on the server. 2: the server could not be asked.
    """
    key = os.environ.get(api_key_var) if api_key_var else None
    try:
        found = asyncio.run(examine(url, model=model, rl_base_url=rl_url, api_key=key))
    except (tito.TitoError, ValueError) as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(2) from None
    if json:
        print(_json.dumps(dataclasses.asdict(found)))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH
        for line in _lines(found, width):
            print(line)
    if any(each.verdict == "change" for each in found.findings):
        raise typer.Exit(1)


def _lines(found: Diagnosis, width: int) -> Iterator[str]:
    """The report: topic by topic, each finding behind its verdict, what to change below it."""
    yield from _wrapped(f"{found.url}: {found.name}, model {found.model or 'unknown'}", "", width)
    for topic, findings in groupby(found.findings, attrgetter("topic")):
        yield topic
        for each in findings:
            yield from _wrapped(each.found, f"  {each.verdict}", width)
            if each.advice is not None:
                yield from _wrapped(f"to do: {each.advice}", "", width, indent=_INDENT)


def _wrapped(text: str, label: str, width: int, *, indent: int | None = None) -> list[str]:
    """Lines of at most ``width`` columns; only a word that is longer than a line is broken."""
    indent = _INDENT if label or indent else 0
    lead = " " * indent
    return textwrap.wrap(
        printable(text),
        max(width, 2 * _INDENT),
        initial_indent=label.ljust(indent),
        subsequent_indent=lead,
        break_on_hyphens=False,
    )
