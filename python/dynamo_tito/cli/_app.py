"""The subcommands, put together: one file each."""

from __future__ import annotations

from typing import Annotated

import typer

import dynamo_tito as tito

from ._decode import decode
from ._doctor import doctor
from ._serve import serve
from ._top import top
from ._view import view
from ._workers import workers

__all__ = ["app"]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"dynamo-tito {tito.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="dynamo-tito",
    help="Decode token-in/token-out responses, and check the servers that send them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # boxes break long lines, in help, in errors and in pipes
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the command itself. Its help is that of ``app``."""


app.command(short_help="Show what saved responses and recorded streams hold.")(decode)
app.command()(doctor)
app.command()(workers)
app.command(short_help="Show a fleet as it works, and the calls of processes.")(top)
app.command()(serve)
app.command(short_help="Make a page of tokens, log-probabilities and routed experts.")(view)
