"""Each example runs against the embedded engine, with short settings, over public names."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

#: The arguments, and a line of the output.
RUNS = {
    "many_conversations.py": (["--conversations", "40", "--in-flight", "16"], r"40 conversations, \d+ tokens .*\{\}"),
    "rollout.py": ([], r"every sample equal to what the engine recorded"),
    "teacher.py": (["--sequences", "20"], r"20 sequences scored, 0 failed, 640 tokens, k3 \d+\.\d+ nats"),
    "weights.py": (
        ["--steps", "2"],
        r"step 2: sampled by \[\{'version': 'step_2', 'start': 0, 'end': 8\}\], kept \[1, 2\]",
    ),
}


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"examples.{Path(name).stem}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RUNS)
def test_it_runs(name: str) -> None:
    arguments, line = RUNS[name]
    assert re.search(f"^{line}$", run(name, *arguments), re.MULTILINE)


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra dynamo-tito[ray]")
def test_it_runs_on_ray() -> None:
    lines = run("on_ray.py", "--tasks", "20").splitlines()
    assert lines == [
        "nodes: 2; engine workers: 1",
        "20 completions of 640 tokens, sampled on 2 nodes; 0 refused",
        "20 sequences scored, 0 failed, k3 0.000 nats",
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_uses_public_names_only(name: str) -> None:
    assert "dynamo_tito._" not in (ROOT / "examples" / name).read_text()


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) - {"__init__.py"} == RUNS.keys() | {"drop_in.py", "http_engine.py", "on_ray.py"}
