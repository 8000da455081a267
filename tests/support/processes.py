"""Runs scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, within: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """A Python process in the root of the checkout, with `support` on its path, from its beginning to its end."""
    path = [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [*within, sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
