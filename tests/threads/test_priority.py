"""The threads of the library give way to the loop that waits for them (Linux)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest

from dynamo_tito import AsyncTitoClient, simulator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of a thread is Linux's")


def scheduled(thread: int) -> tuple[int, int]:
    """Policy and niceness of a thread, by the system's number of it."""
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)


def called(task: Path) -> str:
    """A thread's name; an empty one if it has ended, as threads of other tests may."""
    try:
        return (task / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_receiving_and_decoding_give_way() -> None:
    policy, niceness = scheduled(0)
    if policy != os.SCHED_OTHER:
        pytest.skip("this process has a policy of its own")

    async def main() -> None:
        with simulator.running(backend="vllm") as engine:
            async with AsyncTitoClient(engine.url, model=None, thread_from_bytes=1) as client:
                await client.generate([1, 2, 3], sampling_params={"max_tokens": 4})

    asyncio.run(main())
    receiving = {int(task.name) for task in Path("/proc/self/task").iterdir() if called(task) == "tito-http"}
    decoding = {
        thread.native_id
        for thread in threading.enumerate()
        if thread.name.startswith("dynamo-tito-decode") and thread.native_id is not None
    }
    expected = os.SCHED_BATCH, min(niceness + 10, 19)
    for threads in (receiving, decoding):
        found = set()
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                found.add(scheduled(thread))
        assert found == {expected}
    assert scheduled(0) == (policy, niceness)
