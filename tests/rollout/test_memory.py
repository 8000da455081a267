"""Responses grow with the conversation: the memory of the last one is used for the next."""

from __future__ import annotations

import gc

import pytest

from dynamo_tito import Body, memory_stats, trim_memory

PIECE = b"x" * (100 << 10)


@pytest.mark.parametrize("announced", [True, False])
def test_responses_that_grow_leave_nothing_behind(announced: bool) -> None:
    gc.collect()
    trim_memory()
    before = memory_stats()["allocated"]
    pieces = range(20, 60)
    for count in pieces:
        body = Body(count * len(PIECE)) if announced else Body()
        for _ in range(count):
            body.append(PIECE)
        assert len(body) == count * len(PIECE)
        del body
    stats = memory_stats()
    # One block as large as the largest, or a quarter more; and the few, of 1 MiB in all, from which a body grows.
    assert stats["held_bytes"] <= 1.25 * pieces[-1] * len(PIECE) + (4 << 20)
    assert stats["allocated"] - before <= (1 if announced else len(pieces) + 8)
