"""Networks that drop packets: in a network namespace where the machine allows one, and with sockets alone."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from support.driver import Kind
from support.processes import run

SCRIPT = Path(__file__).with_name("namespace.py")
NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")


@functools.cache
def namespaces() -> bool:
    """Whether this machine makes network namespaces, and ``ip`` is there to work in them."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    tried = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.parametrize("how", ["device", "sockets"])
def test_dropped_packets(kind: Kind, how: str) -> None:
    """Where there are no namespaces, sockets do it twice."""
    inside = how == "device" and namespaces()
    how = "lo" if inside else "sockets"
    done = run("-W", "error", str(SCRIPT), kind, how, within=NAMESPACE if inside else ())
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(": done\n")
