"""What a real vLLM is doing now, and its answers held against a forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import numpy as np

from .vllm_stack import MODEL, VllmServer
from .vllm_truth import Forward

WAIT = 60.0
#: Float32 on both sides, summed in another order.
TOLERANCE = 1e-4
#: Two experts whose logits are this close may be chosen either way: what rounding decides, and everything that follows
#: from it, is not compared.
TIE = 2e-5


async def running(server: VllmServer) -> int:
    """How many requests the engine works on."""
    async with httpx.AsyncClient(timeout=30.0, trust_env=False, verify=False) as client:
        text = (await client.get(f"{server.url}/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return int(float(line.rpartition(" ")[2]))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(WAIT):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def until_running(server: VllmServer, count: int) -> None:
    """Return when the engine works on so many requests."""

    async def reached() -> bool:
        return await running(server) == count

    await until(reached)


def compare(forward: Forward, token_ids: Sequence[int], first: int, logprobs: Any, rows: Any, start: int = 0) -> bool:
    """Hold values against a forward pass over all tokens; False where rounding may have decided a router's choice.

    Args:
        forward: of ``token_ids``.
        token_ids: the whole sequence.
        first: position of the first sampled token; ``logprobs`` are those from there on.
        logprobs: one for each sampled token; they may end before the sequence does.
        rows: routed experts of the positions from ``start`` on; None for nothing to compare.
        start: position of row 0.
    """
    if rows is not None:
        end = start + len(rows)
        decided = forward.margins[start:end] >= TIE
        equal = (rows == forward.experts[start:end]).all(axis=-1)
        assert (equal | ~decided).all()
    if not (forward.margins[: len(token_ids) - 1] >= TIE).all():
        return False
    expected = forward.sampled(token_ids, first)[: len(logprobs)]
    np.testing.assert_allclose(logprobs, expected, rtol=0, atol=TOLERANCE)
    return True


def end_token(server: VllmServer) -> int:
    """The token that ends a message of the tiny models."""
    with httpx.Client(base_url=server.url, timeout=60.0, trust_env=False) as client:
        asked = {"model": MODEL, "prompt": "<|im_end|>", "add_special_tokens": False}
        (token,) = client.post("/tokenize", json=asked).raise_for_status().json()["tokens"]
    return int(token)
