"""``dynamo-tito top``: a fleet and the calls to it, as they change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import dynamo_tito as tito

from ._report import printable

if TYPE_CHECKING:
    from ._overview import Calls, Look, WorkerView

_TIMEOUT = 5.0
_PIPED_WIDTH = 120


def top(
    url: Annotated[
        str, typer.Argument(help="Dynamo's frontend, or a vLLM or SGLang server, with or without /v1.", metavar="URL")
    ],
    rl_url: Annotated[
        str | None,
        typer.Option(
            help="Address of discovery; by default the frontend's host with port DYN_RL_PORT or 8001.", metavar="URL"
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="Page on which a process exports the counters of tito.instrument in Prometheus' form; may be given "
            "several times.",
            metavar="URL",
        ),
    ] = None,
    interval: Annotated[float, typer.Option(help="Time between two looks.", min=0.1, metavar="SECONDS")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, after two looks.")] = False,
) -> None:
    """Show a fleet as it works: versions, pauses, requests, tokens a second; and the calls of processes.

    Nothing is changed on a server. Ctrl-C ends it.

    Exit status 2: discovery, or the server, does not answer.
    """
    try:
        import prometheus_client  # noqa: F401, PLC0415 - the other commands need it not
    except ModuleNotFoundError:
        typer.echo("top needs prometheus_client: install the extra with  pip install 'dynamo-tito[cli]'", err=True)
        raise typer.Exit(1) from None
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_show(url, rl_url, metrics or [], interval, once=once))
    except (tito.TitoError, ValueError) as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(2) from None


async def _show(url: str, rl_url: str | None, metrics: list[str], interval: float, *, once: bool) -> None:
    from ._overview import Overview  # noqa: PLC0415 - likewise

    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    async with Overview(url, rl_url=rl_url, metrics=metrics, seconds=_TIMEOUT) as overview:
        before = await overview.look()
        await asyncio.sleep(interval)
        if once:
            console.print(frame(before, await overview.look()))
            return
        with Live(frame(before, before), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                now = await overview.look()
                live.update(frame(before, now), refresh=True)
                before = now
                await asyncio.sleep(interval)


def frame(before: Look, now: Look) -> Group:
    """One frame: what is now, and rates since the look before."""
    parts: list[Text | Table] = [_summary(before, now), _workers(before, now)]
    if now.calls is not None:
        parts += _calls(before.calls or now.calls, now.calls, now.at - before.at)
    return Group(*parts)


def _summary(before: Look, now: Look) -> Text:
    workers = now.workers
    versions = Counter(worker.version or "unknown" for worker in workers if worker.problem is None)
    facts = [
        f"{len(workers)} workers",
        f"{sum(worker.problem is not None for worker in workers)} with a problem",
        f"{sum(worker.paused is True for worker in workers)} paused",
        "versions " + (", ".join(f"{version} ({count})" for version, count in sorted(versions.items())) or "none"),
        f"{_number(_total(worker.running for worker in workers))} requests in flight",
        f"{_number(_total(_rate(before, now, worker) for worker in workers))} tokens/s",
    ]
    return Text(printable("   ".join(facts)))


def _workers(before: Look, now: Look) -> Table:
    table = _table("worker", "model", "version", "state", "running", "waiting", "tokens/s", "problem")
    for worker in now.workers:
        state = "unknown" if worker.paused is None else "paused" if worker.paused else "running"
        table.add_row(
            *map(
                _cell,
                (
                    worker.name,
                    worker.model or "-",
                    worker.version or "-",
                    state if worker.problem is None else "-",
                    _number(worker.running),
                    _number(worker.waiting),
                    _number(_rate(before, now, worker)),
                    worker.problem or "",
                ),
            )
        )
    return table


def _calls(before: Calls, now: Calls, seconds: float) -> list[Text | Table]:
    def rate(new: float, old: float) -> float | None:
        return (new - old) / seconds if seconds > 0 and new >= old else None

    mean = now.seconds / now.calls if now.calls else None
    line = _table("calls", "failed", "in flight", "calls/s", "mean s", "tokens/s", "MB/s", "retries", "interrupted")
    line.add_row(
        *map(
            _cell,
            (
                _number(now.calls),
                _number(now.failed),
                _number(now.active),
                _number(rate(now.calls, before.calls)),
                _number(mean),
                _number(rate(now.tokens, before.tokens)),
                _number(rate(now.sums["received"] / 1e6, before.sums["received"] / 1e6)),
                _number(now.sums["retries"]),
                _number(now.sums["interrupted"]),
            ),
        )
    )
    parts: list[Text | Table] = [line, *(Text(printable(problem)) for problem in now.problems)]
    if now.refusals:
        refusals = _table("refused", "wire", "answers")
        for (kind, wire), count in sorted(now.refusals.items()):
            refusals.add_row(_cell(kind), _cell(wire), _cell(_number(count)))
        parts.append(refusals)
    return parts


def _table(*head: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in head:
        table.add_column(heading, overflow="fold")
    return table


def _cell(text: str) -> Text:
    return Text(printable(text))


def _rate(before: Look, now: Look, worker: WorkerView) -> float | None:
    """Tokens a second of one worker; None before its second look, and after a restart."""
    earlier = next((each.tokens for each in before.workers if each.name == worker.name), None)
    seconds = now.at - before.at
    if worker.tokens is None or earlier is None or seconds <= 0 or worker.tokens < earlier:
        return None
    return (worker.tokens - earlier) / seconds


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2f}"
