"""Commands that measure a few figures and hold each against a bound."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """What was measured, beside what must hold."""

    name: str
    measured: str
    bound: str
    held: bool

    def show(self) -> None:
        """Print it as a line."""
        verdict = "held" if self.held else "MISSED"
        print(f"{self.name:80s} {self.measured:>12s}   {self.bound:12s} {verdict}", flush=True)


def main(about: str | None, measurements: Mapping[str, Callable[[], Iterable[Figure]]]) -> int:
    """Measure what the command line asks for, and print each figure as it comes; the status of the process."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", metavar="|".join(measurements), help="default: all")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a figure misses its bound")
    arguments = parser.parse_args()
    if unknown := {*arguments.which} - {*measurements}:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    held = True
    for name in arguments.which or measurements:
        for figure in measurements[name]():
            held &= figure.held
            figure.show()
    return 0 if held or not arguments.check else 1
