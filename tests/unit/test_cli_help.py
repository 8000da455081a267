"""``dynamo-tito`` itself: its version, its help, and the completion of a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import dynamo_tito as tito
from dynamo_tito.cli._app import app

COMMAND: Any = get_command(app)
NAMES = ["", *COMMAND.commands]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns_and_cuts_no_sentence(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="dynamo-tito", env={"COLUMNS": "80"})
    assert (shown.exit_code, shown.stdout[:6]) == (0, "Usage:")
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained(name: str) -> None:
    command = COMMAND.commands[name] if name else COMMAND
    assert command.params
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_the_version_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dynamo_tito", "--version"], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dynamo-tito {tito.__version__}\n", "")


def test_a_shell_completes_the_commands() -> None:
    code = "import sys; sys.argv = ['dynamo-tito']; from dynamo_tito.cli import main; main()"
    asked = {"_DYNAMO_TITO_COMPLETE": "complete_bash", "COMP_WORDS": "dynamo-tito d", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["decode", "doctor"], "")
