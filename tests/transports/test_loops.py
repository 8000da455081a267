"""Event loops of other makes: each HTTP engine answers on uvloop as on asyncio's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from dynamo_tito import connect, simulator

if TYPE_CHECKING:
    from dynamo_tito._config import HttpLibrary


@pytest.mark.parametrize("http", ["httpx", "native"])
def test_a_call_and_a_stream_on_uvloop(http: HttpLibrary) -> None:
    async def ask(url: str) -> list[int]:
        async with connect(url, backend="vllm", model=None, http=http) as client:
            whole = await client.generate([1, 2, 3], sampling_params={"max_tokens": 4}, deadline=60)
            async with client.stream([1, 2, 3], sampling_params={"max_tokens": 4}, deadline=60) as stream:
                async for _ in stream:
                    pass
            assert stream.completion.token_ids.tolist() == whole.token_ids.tolist()
            return [*map(int, whole.token_ids)]

    with simulator.running(backend="vllm") as engine, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask(engine.url)) == engine.last.samples[0].token_ids.tolist()
