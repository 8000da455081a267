"""What the processes of the cluster do."""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

import dynamo_tito as tito
from dynamo_tito.rollout import Rollout
from support.chat import ChatRenderer


async def sample(client: tito.AsyncTitoClient, task: dict[str, Any]) -> tito.Completion:
    return await client.generate(task["prompt"], sampling_params={"max_tokens": task["tokens"]})


async def stream(client: tito.AsyncTitoClient, task: int) -> int:
    async with client.stream([task + 1], sampling_params={"max_tokens": 4}) as found:
        async for _ in found:
            pass
    return len(found.completion.token_ids)


async def conversation(client: tito.AsyncTitoClient, question: str) -> Any:
    rollout = Rollout(ChatRenderer())
    for text in (question, "Go on."):
        await rollout.step(client, [{"role": "user", "content": text}], sampling_params={"max_tokens": 12})
    return rollout.sample()


async def process(client: tito.AsyncTitoClient, _: int) -> tuple[int, str, str | None]:
    return os.getpid(), client.base_url, client.model


async def bug(_: tito.AsyncTitoClient, task: int) -> int:
    return 1 // task


def completion(seed: int, *, rows: int = 3_905, layers: int = 48, top_k: int = 8) -> tito.Completion:
    """About 6 MB as it is in memory with experts one byte wide: 1.5 MB of routing, times four as int32."""
    rng = np.random.default_rng(seed)
    count = rows // 2
    body = {
        "id": "x",
        "choices": [
            {
                "index": 0,
                "token_ids": rng.integers(0, 30_000, count).tolist(),
                "finish_reason": "length",
                "logprobs": None,
                "routed_experts": tito.encode_routed_experts(
                    rng.integers(0, 128, (rows, layers, top_k)).astype(np.int32)
                ),
            }
        ],
    }
    return tito.decode(
        json.dumps(body).encode(), wire="vllm_generate", require_logprobs=False, prompt_len=rows - count + 1
    )


def arrays(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every array of a record, with its name."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, (deque, list, tuple)):
        yield from itertools.chain.from_iterable(arrays(each, f"{name}[{at}]") for at, each in enumerate(value))
    else:
        names = getattr(type(value), "__dataclass_fields__", ()) or getattr(type(value), "__slots__", ())
        names = [*names, *getattr(value, "__dict__", ())]
        for each in names:
            yield from arrays(getattr(value, each, None), f"{name}.{each}")
