"""A process that decodes, forks, and decodes on both sides; ``test_robustness`` runs it."""

from __future__ import annotations

import multiprocessing

import dynamo_tito as tito
from support.bodies import DIALECTS, Sample
from support.samples import invent
from support.truth import check
from support.writing import compact

DIALECT = DIALECTS["prime_generate"]


def decode_and_check(body: bytes, sample: Sample) -> None:
    for _ in range(3):
        check(tito.decode(body, wire=DIALECT.wire), sample, DIALECT, DIALECT.container)


def main() -> None:
    sample = invent(15, prompt=1024, completion=1024, layers=24, top_k=8)
    body = compact(DIALECT.build([sample], DIALECT.container))
    held = tito.decode(body, wire=DIALECT.wire)
    decode_and_check(body, sample)  # leaves memory to recycle, which parent and child then both have
    child = multiprocessing.get_context("fork").Process(target=decode_and_check, args=(body, sample))
    child.start()
    decode_and_check(body, sample)
    child.join()
    check(held, sample, DIALECT, DIALECT.container)
    print("parent and child agree" if child.exitcode == 0 else f"the child ended with {child.exitcode}")


if __name__ == "__main__":
    main()
