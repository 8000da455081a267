"""The ``dynamo-tito`` command. It needs the extra ``cli`` (typer, rich, prometheus-client).

The commands use the library as anyone else does, through its public names.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: with the command's status, or with a line that names the extra to install.
    """
    try:
        from ._app import app  # noqa: PLC0415 - the package installs the script without the extra, too
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        raise SystemExit(
            f"dynamo-tito needs {error.name}: install the extra with  pip install 'dynamo-tito[cli]'"
        ) from None
    app()
