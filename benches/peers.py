"""This library beside every rival, on the same bytes, in the same run. Answers are proven before a figure is printed.

python -m benches.peers time --cases c_vllm,c_nvext --rounds 15
python -m benches.peers time --full          every row, not just the completion's
python -m benches.peers mem                  peak memory beyond the result, each in a fresh process
python -m benches.peers lag                  how late a 1 ms ticker gets while a thread decodes
python -m benches.peers heap                 the same ratios in a process that holds two million objects
python -m benches.peers growth               1k to 256k tokens
python -m benches.peers request              a request of 100,000 token ids
python -m benches.peers report               all of it, and benches.transport, into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from benches import beside, growth, report, request, speed
from benches.cases import CASES
from benches.measure import Table

_MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Iterable[Table]]] = {
    "time": lambda asked: speed.tables(asked.cases or [*CASES], asked.rounds or 15, full=asked.full),
    "mem": lambda asked: beside.memory(asked.cases or beside.CASES_OF_MEMORY, full=asked.full),
    "lag": lambda asked: beside.lag(asked.cases or beside.CASES_OF_LAG, asked.rounds or 15, full=asked.full),
    "heap": lambda asked: beside.heap(asked.cases or beside.CASES_OF_HEAP, asked.rounds or 9),
    "growth": lambda asked: growth.tables(asked.rounds or 15),
    "request": lambda asked: request.tables(asked.rounds or 31),
}


def main() -> None:
    """Run one measurement, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*_MEASUREMENTS, "report"])
    parser.add_argument("--cases", type=_cases, default=[], metavar="NAME,NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=0, help="how often; every measurement has its own default")
    parser.add_argument("--full", action="store_true", help="decode every row of routed experts")
    asked = parser.parse_args()
    if asked.command == "report":
        report.write(asked.rounds)
        return
    for table in _MEASUREMENTS[asked.command](asked):
        print(table.markdown(), flush=True)


def _cases(text: str) -> list[str]:
    names = text.split(",")
    if unknown := {*names} - {*CASES}:
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
