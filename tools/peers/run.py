"""Run the suites of renderers and verifiers, unmodified, over this library, and this library's tests of both.

    run.py DIR [PAIR ...]        (default: stable dev)

DIR is where `install.sh` put the pairs. With `PRIME_RL_DIR`, a checkout of prime-rl, its tests of the same functions
run as well. Each suite must have as many tests as the table says: one that collects none is no success.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Suite:
    """Tests of one source tree, how many of them pass, and how many skip themselves."""

    where: Path
    files: tuple[str, ...]
    passed: int
    skipped: int = 0
    options: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


def suites(directory: Path, pair: str) -> list[Suite]:
    """What runs in the environment of one pair."""
    sources = directory / pair / "sources"
    if pair == "stable":
        found = [
            Suite(sources / "renderers-0.1.12", ("tests/test_client.py",), 25, 6),
            Suite(
                sources / "verifiers-0.4.0",
                ("tests/v1/test_graph.py", "tests/v1/test_trace.py", "tests/v1/test_serve_delta.py"),
                48,
            ),
        ]
        return found + ([prime_rl(Path(os.environ["PRIME_RL_DIR"]))] if "PRIME_RL_DIR" in os.environ else [])
    unit = ("test_graph.py", "test_trace.py", "test_token_arrays.py", "serve/test_delta.py")
    return [
        Suite(sources / "renderers-0.1.13.dev17", ("tests/test_client.py",), 104, 6),
        Suite(sources / "verifiers-0.4.1.dev86", tuple(f"tests/unit/{name}" for name in unit), 54),
    ]


def prime_rl(checkout: Path) -> Suite:
    """prime-rl 0.8.0 as of August 2026.

    Left out are two tests whose stand-ins are no servers: one asserts prime-rl's own call of an adapter's route, the
    other answers the teacher's question with scores of other tokens, which this library refuses.
    """
    left_out = ("load_lora_adapter_succeeds_on_first_attempt", "prefill_logprobs_uses_inference_generate")
    return Suite(
        checkout,
        ("tests/unit/utils/test_client.py", "tests/unit/orchestrator/test_prefill_logprobs.py"),
        8,
        options=("--noconftest", "-p", "no:asyncio", "-k", " and ".join(f"not {name}" for name in left_out)),
        paths=(checkout / "src", checkout / "packages/prime-rl-configs/src"),
    )


def run(python: Path, suite: Suite) -> str | None:
    """Run a suite; the reason why it failed, if it did."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        path = [ROOT / "python", ROOT / "tools" / "peers", *suite.paths]
        command = [str(python), "-m", "pytest", "-q", "-p", "installed", "-p", "no:cacheprovider", "-W", "ignore",
                   *(("-c", "pyproject.toml") if (suite.where / "pyproject.toml").exists() else ()),
                   f"--junitxml={report.name}", *suite.options, *suite.files]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=suite.where, env=environment, capture_output=True, text=True, check=False)
        try:
            cases = list(ET.parse(report.name).iter("testcase"))  # noqa: S314 - pytest wrote it
        except ET.ParseError:
            cases = []
    outcomes = Counter(next((child.tag for child in case if child.tag != "properties"), "passed") for case in cases)
    print(f"{suite.where.name}: {dict(outcomes)}", flush=True)
    wanted = Counter({"passed": suite.passed, "skipped": suite.skipped})
    if done.returncode or +outcomes != +wanted:
        return f"{suite.where.name}: {dict(outcomes)} instead of {dict(+wanted)}\n{done.stdout}{done.stderr}"
    return None


def ours(python: Path, *, real: bool) -> str | None:
    """Run `tests/peers`, with the real servers that `VLLM_DIR` and `DYNAMO_DIR` name if ``real``."""
    tests = ["tests/peers", "--ignore=tests/peers/trainers"]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "PEERS": "1", "HF_HUB_OFFLINE": "1"}
    if not real:
        for name in ("VLLM_DIR", "DYNAMO_DIR"):
            environment.pop(name, None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(f"tests/peers: {(done.stdout.strip().splitlines() or ['nothing'])[-1]}", flush=True)
    return f"tests/peers\n{done.stdout}{done.stderr}" if done.returncode else None


def main() -> int:
    """Everything, two processes at a time."""
    directory = Path(sys.argv[1]).resolve()
    jobs: list[Callable[[], str | None]] = []
    for pair in sys.argv[2:] or ["stable", "dev"]:
        python = directory / pair / "bin" / "python"
        jobs.append(functools.partial(ours, python, real=pair == "dev"))
        jobs += [functools.partial(run, python, suite) for suite in suites(directory, pair)]
    with ThreadPoolExecutor(2) as threads:
        failures = [failure for failure in threads.map(lambda job: job(), jobs) if failure is not None]
    print(*failures, sep="\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
