"""Settings for every test."""

from __future__ import annotations

import gc
import itertools
import signal

import pytest
from hypothesis import HealthCheck, settings

# A slow machine must not fail a test: no deadline, and pytest-timeout bounds the whole.
settings.register_profile("tito", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tito")


def pytest_configure() -> None:
    """Take SIGINT back where a shell's background job ignores it: programs that tests start inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the tests that wait for long to all processes, which begin with them: at the end, others would wait too.

    Each process begins with an equal part of the list (``--dist worksteal``).
    """
    processes: int = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes == 1:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    left = len(items)
    items.clear()
    for number in range(processes):
        part = left // (processes - number)
        left -= part
        mine = long[number::processes]
        items += [*mine, *itertools.islice(others, max(part - len(mine), 0))]


def pytest_collection_finish() -> None:
    """Put the collected tests out of the garbage collector's sight: each full collection would read all of them."""
    gc.collect()
    gc.freeze()
