"""Threads that decode large bodies while the event loop runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dynamo_tito._native import give_way

T = TypeVar("T")

MAX_DECODING_THREADS = 8
"""Decoding is bound by memory bandwidth; more threads do not help."""


async def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread, in the caller's context.

    The loop's own executor does not serve: it also resolves host names, and has more threads than there are cores.
    """
    run = functools.partial(contextvars.copy_context().run, work)
    return await asyncio.get_running_loop().run_in_executor(_executor(), run)


@functools.cache
def _executor() -> ThreadPoolExecutor:
    # One core is left to the loop.
    threads = max(1, min(_cores() - 1, MAX_DECODING_THREADS))
    return ThreadPoolExecutor(threads, thread_name_prefix="dynamo-tito-decode", initializer=give_way)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads.
    os.register_at_fork(after_in_child=_executor.cache_clear)
