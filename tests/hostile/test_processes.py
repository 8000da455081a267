"""How processes end, fork and share. Each runs in a process of its own, which ends with 0 and prints nothing else."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.processes import run
from support.threads import FREE_THREADED

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ENDINGS = {"plain": 12, "errors": 6, "large": 3, "out": 3, "body": 3, "atexit": 2, "finalizer": 2}
"""How the process is busy when it ends, and how often it is tried."""


@pytest.mark.parametrize("how", ENDINGS)
def test_a_process_ends_while_daemon_threads_decode(how: str) -> None:
    def end(_: int) -> tuple[int, str, str]:
        done = run(str(HERE / "ending.py"), how)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(2) as pool:
        assert {*pool.map(end, range(ENDINGS[how]))} == {(0, "", "")}


def test_forks_while_threads_decode() -> None:
    # Python warns of forks beside threads, from 3.12 on; doing it is the point.
    done = run("-W", "ignore::DeprecationWarning", str(HERE / "forking.py"))
    assert (done.returncode, done.stdout) == (0, "30 of 30 children ended well, 0 threads failed\n"), done.stderr


def test_arrays_outlive_everything() -> None:
    done = run(str(HERE / "lasting.py"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "all there\n", "")


@pytest.mark.parametrize("order", ["ms", "sm", "mss", "smsm"])
def test_one_interpreter_of_a_process_has_the_package(order: str) -> None:
    done = run(str(HERE / "interpreters.py"), order)
    # Without a GIL no other interpreter than the main one may have it.
    said = dict.fromkeys("m" if FREE_THREADED else order[0], "MissingFieldError")
    expected = "".join(f"{said.get(place, 'ImportError')}\n" for place in order)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_nothing_is_left_behind() -> None:
    done = run("-m", "benches.leak", "20000")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_leak_is_found() -> None:
    code = (
        "import benches.leak as leak; kept = []; leak._right = lambda b, o: lambda: kept.append(bytearray(b'x' * 8192))"
    )
    done = run("-c", f"{code}; import sys; sys.argv[1:] = ['20000']; sys.exit(leak.main())")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "allowed 4" in done.stdout


def test_every_response_is_accounted_for() -> None:
    done = run("-m", "benches.soak", "--small", "600", "--large", "4", "--every", "60", "--brief")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every response accounted for" in done.stdout


def test_these_scripts_are_run() -> None:
    scripts = {path.name for path in HERE.glob("*.py") if not path.name.startswith(("test_", "__"))}
    assert scripts == {"ending.py", "forking.py", "lasting.py", "interpreters.py"}
    assert sys.version_info >= (3, 11)
