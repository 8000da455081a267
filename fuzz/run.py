"""Builds the fuzz targets and runs each for its share of the time, or for a number of executions.

The toolchain is the stable one. The flags below are those of cargo-fuzz, which runs the same targets from the same
corpora (`cargo fuzz run decode`). What is worth keeping stays in fuzz/corpus, what breaks a target in fuzz/artifacts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ["decode", "decode_choices", "containers", "artifact", "packed", "kernels", "requests", "stream"]

COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
]

# An input takes a millisecond. One that takes this long does not end.
TIMEOUT = 20
# Many small inputs find more than a few large ones.
MAX_LEN = 4096


@dataclass(frozen=True)
class Outcome:
    """What a run of one target came to."""

    executions: int
    per_second: int
    coverage: int
    new_coverage: int
    slowest: int
    findings: list[Path]
    exit_code: int
    log: Path

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.exit_code == 0 and not self.findings


def build(targets: list[str], *, sanitize: bool) -> dict[str, Path]:
    """Builds the targets; returns where their programs are."""
    cargo, rustc = os.environ.get("CARGO", "cargo"), os.environ.get("RUSTC", "rustc")
    version = subprocess.run([rustc, "-vV"], check=True, capture_output=True, text=True).stdout
    (host,) = re.findall(r"^host: (.+)$", version, re.MULTILINE)
    environment = os.environ | {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(COVERAGE)}
    if sanitize:
        # The flag is not a stable one; its runtime comes with the stable toolchain.
        environment["RUSTC_BOOTSTRAP"] = "1"
        environment["CARGO_ENCODED_RUSTFLAGS"] += "\x1f-Zsanitizer=address"
    command = [cargo, "build", "--locked", "--release", "--quiet", "--target", host, "--message-format=json"]
    command += [f"--bin={target}" for target in targets]
    output = subprocess.run(command, cwd=HERE, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    return {
        message["target"]["name"]: Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }


def number(pattern: str, log: str) -> int:
    """The last number that the pattern finds, 0 where it finds none."""
    found = re.findall(pattern, log)
    return int(found[-1]) if found else 0


def run(target: str, program: Path, limit: str) -> Outcome:
    """Runs one target from its corpus until the limit."""
    corpus, artifacts = HERE / "corpus" / target, HERE / "artifacts" / target
    corpus.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    before = set(artifacts.iterdir())
    command = [str(program), str(corpus), limit, f"-artifact_prefix={artifacts}/"]
    command += [f"-timeout={TIMEOUT}", f"-max_len={MAX_LEN}", "-print_final_stats=1"]
    environment = os.environ | {"RUST_BACKTRACE": "0"}  # a sanitizer prints its own
    path = artifacts.with_suffix(".log")
    with path.open("wb") as file:
        done = subprocess.run(command, cwd=HERE, env=environment, stderr=file, stdout=file, check=False)
    log = path.read_text(errors="replace")
    coverage = number(r" cov: (\d+)", log)
    return Outcome(
        executions=number(r"stat::number_of_executed_units: *(\d+)", log),
        per_second=number(r"stat::average_exec_per_sec: *(\d+)", log),
        coverage=coverage,
        new_coverage=coverage - number(r"\bINITED cov: (\d+)", log),
        slowest=number(r"stat::slowest_unit_time_sec: *(\d+)", log),
        # An input that was merely slow, on a machine that was merely busy, is no finding; a hang is.
        findings=sorted(path for path in set(artifacts.iterdir()) - before if not path.name.startswith("slow-unit-")),
        exit_code=done.returncode,
        log=path,
    )


def excerpt(log: Path) -> str:
    """What a log says about a finding: from the panic on, else its end."""
    lines = log.read_text(errors="replace").splitlines()
    panic = next((at for at, line in enumerate(lines) if "panicked at" in line), None)
    return "\n".join(lines[-40:] if panic is None else lines[panic : panic + 40])


def main() -> int:
    """Parses the arguments, builds, runs; the exit code says whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="target", help=", ".join(TARGETS))
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--seconds", type=int, default=60, help="for all targets together (default: %(default)s)")
    limits.add_argument("--runs", type=int, help="executions of each target, however long they take")
    parser.add_argument("--sanitize", action="store_true", help="under AddressSanitizer, at a fifth of the speed")
    arguments = parser.parse_args()
    targets: list[str] = arguments.targets
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    share = max(1, arguments.seconds // len(targets))
    limit = f"-runs={arguments.runs}" if arguments.runs else f"-max_total_time={share}"

    programs = build(targets, sanitize=arguments.sanitize)
    print(f"{'target':<16}{'executions':>12}{'/s':>8}{'coverage':>10}{'new':>7}{'slowest':>9}{'findings':>10}")
    clean = True
    for target in targets:
        outcome = run(target, programs[target], limit)
        findings = max(len(outcome.findings), int(not outcome.clean))
        print(
            f"{target:<16}{outcome.executions:>12,}{outcome.per_second:>8,}{outcome.coverage:>10,}"
            f"{outcome.new_coverage:>7,}{outcome.slowest:>7} s{findings:>10}",
            flush=True,
        )
        if not outcome.clean:
            clean = False
            print(excerpt(outcome.log))
            for path in outcome.findings:
                print(f"again: {programs[target]} {path}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
