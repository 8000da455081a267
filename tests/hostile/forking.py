"""A process that forks again and again while its threads decode; ``test_processes`` runs it.

Every child decodes, with whatever the fork has left of the pool, and must end well and soon. What it compares
with is its own: where there is no GIL, another thread may hold the lock of an object at the moment of the fork.
"""

from __future__ import annotations

import os
import signal
import threading

import numpy as np

import dynamo_tito as tito
from support.bodies import DIALECTS, Sample
from support.samples import invent
from support.truth import check
from support.writing import compact

DIALECT = DIALECTS["prime_generate"]
THREADS, FORKS = 4, 30


def decode_and_check(body: bytes, sample: Sample) -> None:
    check(tito.decode(body, wire=DIALECT.wire), sample, DIALECT, DIALECT.container)


def decode_and_compare(body: bytes, tokens: bytes, experts: bytes) -> None:
    completion = tito.decode(body, wire=DIALECT.wire)
    assert completion.token_ids.tobytes() == tokens
    assert completion.routed_experts is not None
    assert completion.routed_experts.array.tobytes() == experts


def child(body: bytes, tokens: bytes, experts: bytes) -> None:
    """Never returns."""
    signal.alarm(30)
    status = 1
    try:
        for _ in range(3):
            decode_and_compare(body, tokens, experts)
            tito.trim_memory()
        tito.configure_memory(max_bytes=0)
        decode_and_compare(body, tokens, experts)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    sample = invent(41, prompt=512, completion=512, layers=24, top_k=8)
    body = compact(DIALECT.build([sample], DIALECT.container))
    tokens, experts = (np.asarray(values, np.int32).tobytes() for values in (sample.tokens, sample.experts))
    stop = threading.Event()
    failures: list[BaseException] = []
    begun = threading.Barrier(THREADS + 1)

    def work() -> None:
        begun.wait()
        try:
            while not stop.is_set():
                decode_and_check(body, sample)
        except BaseException as failure:  # noqa: BLE001 - every failure of a thread is reported
            failures.append(failure)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    begun.wait()
    statuses = []
    for _ in range(FORKS):
        process = os.fork()
        if process == 0:
            child(body, tokens, experts)
        statuses.append(os.waitpid(process, 0)[1])
    stop.set()
    for thread in threads:
        thread.join()
    decode_and_check(body, sample)
    print(f"{statuses.count(0)} of {FORKS} children ended well, {len(failures)} threads failed")


if __name__ == "__main__":
    main()
