"""``dynamo-tito doctor``: what a server really does, and what to change on it."""

from __future__ import annotations

import asyncio
import dataclasses
import json as _json
import os
from typing import Annotated

import typer

import dynamo_tito as tito
from dynamo_tito.control import examine

from ._report import as_columns, printable


def doctor(
    url: Annotated[str, typer.Argument(help="The server, with or without /v1.")],
    model: Annotated[str | None, typer.Option(help="Which model; by default the first one listed.")] = None,
    rl_url: Annotated[str | None, typer.Option(help="Where Dynamo's discovery listens.")] = None,
    api_key_var: Annotated[
        str | None, typer.Option(help="Environment variable that holds the API key.", metavar="NAME")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a server what it really does: wires, dialects, routed experts, log-probabilities, discovery, administration.

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
        print(printable(f"{found.url}: {found.name}, model {found.model or 'unknown'}"))
        rows = [(each.verdict, each.topic, each.found, each.advice or "") for each in found.findings]
        as_columns(("", "what", "found", "to change on the server"), rows)
    if any(each.verdict == "change" for each in found.findings):
        raise typer.Exit(1)
