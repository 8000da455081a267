"""Settings for every test."""

from __future__ import annotations

import gc
import signal

from hypothesis import HealthCheck, settings

# A slow machine must not fail a test: no deadline, and pytest-timeout bounds the whole.
settings.register_profile("tito", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tito")


def pytest_configure() -> None:
    """Take SIGINT back where a shell's background job ignores it: programs that tests start inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Put the collected tests out of the garbage collector's sight: each full collection would read all of them."""
    gc.collect()
    gc.freeze()
