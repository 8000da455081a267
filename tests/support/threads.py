"""Threads that begin at the same moment, and one that disturbs them."""

from __future__ import annotations

import contextlib
import gc
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator

THREADS = 8
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def settle() -> None:
    """Let other threads release their references, which they do a moment later.

    Without a GIL a thread that made an object frees it, when it runs again, or the collector does.
    """
    time.sleep(0.005)
    if FREE_THREADED:
        gc.collect()


def at_once(*works: Callable[[int], None]) -> None:
    """Each of these on a thread of its own, all at the same moment; a single one on every thread.

    With a GIL they take turns as often as the interpreter lets them. What one of them raises is raised here.
    """
    works = works * THREADS if len(works) == 1 else works
    begin = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def begun(number: int, work: Callable[[int], None]) -> None:
        begin.wait()
        try:
            work(number)
        except BaseException as failure:  # noqa: BLE001 - reported below
            failures.append(failure)

    threads = [threading.Thread(target=begun, args=place, daemon=True) for place in enumerate(works)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def disturbed(*disturbances: Callable[[], object]) -> Iterator[None]:
    """Another thread does these things over and over.

    The collector sees only what the block makes, so a collection among them is short.
    """
    stop = threading.Event()
    gc.collect()
    gc.freeze()

    def disturb() -> None:
        while not stop.is_set():
            for disturbance in disturbances:
                disturbance()

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
