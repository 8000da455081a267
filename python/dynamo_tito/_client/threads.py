"""The threads that decode large bodies while the event loop goes on."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

MAX_DECODING_THREADS = 8
"""Decoding runs at the speed of memory: more threads would wait for it together."""


async def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` beside the loop, in the caller's context.

    Not in the loop's own executor: name lookups wait there, and it has more threads than there are cores, which then
    take turns with the loop.
    """
    run = functools.partial(contextvars.copy_context().run, work)
    return await asyncio.get_running_loop().run_in_executor(_executor(), run)


@functools.cache
def _executor() -> ThreadPoolExecutor:
    # One core is the loop's.
    threads = max(1, min(_cores() - 1, MAX_DECODING_THREADS))
    return ThreadPoolExecutor(threads, thread_name_prefix="dynamo-tito-decode")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads.
    os.register_at_fork(after_in_child=_executor.cache_clear)
