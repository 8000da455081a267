"""Memory of a call that waits for its answer. ``python -m benches.transport_memory URL CALLS`` prints KiB of each."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import numpy as np

import dynamo_tito as tito
from benches.cases import CASES
from benches.serving import every_descriptor
from benches.transport_clients import SMALL


def _resident() -> float:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return float(found[1])


async def _main(url: str, calls: int) -> float:
    prompt = np.random.RandomState(0).randint(0, 151_936, CASES[SMALL].prompt)
    most, done = 0.0, 0
    async with tito.AsyncTitoClient(
        f"{url}/{SMALL}", model="m", preflight=False, max_concurrency=calls, timeout=300.0
    ) as client:

        async def one() -> None:
            nonlocal done
            completion = await client.generate(prompt, routed_experts_prompt_start=len(prompt))
            assert len(completion.token_ids) == CASES[SMALL].completion
            done += 1

        before = _resident()
        tasks = [asyncio.create_task(one()) for _ in range(calls)]
        while not done:
            most = max(most, _resident())
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
    return (most - before) / calls


if __name__ == "__main__":
    every_descriptor()
    print(asyncio.run(_main(sys.argv[1], int(sys.argv[2]))))
