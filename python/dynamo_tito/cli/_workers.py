"""``dynamo-tito workers``: who is behind a frontend, and how they are."""

from __future__ import annotations

import asyncio
import dataclasses
import json as _json
from typing import Annotated, Any

import typer

import dynamo_tito as tito
from dynamo_tito.control import DynamoAdmin, Worker, Workers

from ._report import as_columns, printable

_HEAD = ("worker", "model", "ranks", "routes", "version", "health")


def workers(
    url: Annotated[str, typer.Argument(help="Dynamo's frontend, with or without /v1.", metavar="URL")],
    rl_url: Annotated[
        str | None,
        typer.Option(
            help="Address of discovery; by default the frontend's host with port DYN_RL_PORT or 8001.", metavar="URL"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only workers of this model.", metavar="NAME")] = None,
    timeout: Annotated[float, typer.Option(help="Time for each worker.", min=0.1, metavar="SECONDS")] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per worker, one per line.")] = False,
) -> None:
    """List the RL workers behind a Dynamo frontend.

    Shows model, ranks, routes, weight version and health of each.

    Exit status 1: a worker is not healthy. 2: discovery failed.
    """
    try:
        rows = asyncio.run(_look(url, rl_url, model, timeout))
    except (tito.TitoError, ValueError) as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(2) from None
    for row in rows:
        if json:
            print(_json.dumps(row))
    if not json:
        as_columns(_HEAD, [_cells(row) for row in rows])
    if any(row["health"] != "ok" for row in rows):
        raise typer.Exit(1)


async def _look(url: str, rl_url: str | None, model: str | None, seconds: float) -> list[dict[str, Any]]:
    async with Workers(url, rl_base_url=rl_url, model=model, allow_incomplete=True) as listed:
        await listed.refresh()
        return await asyncio.gather(*(_row(worker, seconds) for worker in listed))


async def _row(worker: Worker, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"worker": str(worker.identity), **dataclasses.asdict(worker), "version": None}
    del row["identity"]
    row["health"] = worker.problem or "ok"
    if worker.problem is not None or worker.system_url is None:
        return row
    admin = DynamoAdmin(worker.system_url)
    try:
        async with asyncio.timeout(seconds):
            await admin.health()
            row["version"] = await admin.weight_version()
    except tito.TitoError as error:
        row["health"] = str(error)
    except TimeoutError:
        row["health"] = f"no answer in {seconds:g} s"
    finally:
        await admin.aclose()
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ranks, routes = str(row["world_size"] or "-"), str(len(row["routes"]))
    return row["worker"], row["model"] or "-", ranks, routes, row["version"] or "-", row["health"]
