"""The subcommands, put together: one file each."""

from __future__ import annotations

import typer

from ._decode import decode
from ._doctor import doctor
from ._serve import serve
from ._top import top
from ._view import view
from ._workers import workers

__all__ = ["app"]

app = typer.Typer(
    name="dynamo-tito",
    help="Decode token-in/token-out responses, and check the servers that send them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes break long lines, in help, in errors and in pipes
    pretty_exceptions_enable=False,
)
app.command()(decode)
app.command()(doctor)
app.command()(workers)
app.command()(top)
app.command()(serve)
app.command()(view)
