"""``renderers.client.generate`` and this library's, over one server, by both kinds of client.

.peers/dev/bin/python -m benches.dropin            (with PYTHONPATH=python)

The contenders are asked in turn, in an order that changes each round, and their answers are equal. The server sends
answers that were made before. Times are from the call to the result; the renderer renders and parses nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import renderers.client

import dynamo_tito as tito
from benches.measure import ratio, times_faster
from dynamo_tito.integrations import renderers as drop_in
from dynamo_tito.simulator.http import Answer, Listener, Request, head

ROUNDS = 15
THEIRS = renderers.client.generate


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of the prompt, tokens sampled, decoder layers and experts a token; 0 layers for none."""

    prompt: int
    sampled: int
    layers: int
    top_k: int


SIZES = {
    "1,024 + 256 tokens, no routing": Size(1_024, 256, 0, 0),
    "4,096 + 4,096 tokens, 48 layers x top-8": Size(4_096, 4_096, 48, 8),
    "16,384 + 16,384 tokens, 48 layers x top-8": Size(16_384, 16_384, 48, 8),
}


def answer_of(size: Size) -> bytes:
    """prime-rl's answer: an entry for each token, and routed experts as base64 of uint8."""
    rng = np.random.default_rng(size.sampled)
    ids = rng.integers(0, 150_000, size.sampled).tolist()
    logprobs = (-rng.exponential(1.0, size.sampled)).astype(np.float32).astype(np.float64).tolist()
    entries = [
        {"token": f"token_id:{token}", "logprob": value, "bytes": None, "top_logprobs": []}
        for token, value in zip(ids, logprobs, strict=True)
    ]
    choice: dict[str, Any] = {"index": 0, "token_ids": ids, "logprobs": {"content": entries}, "finish_reason": "length"}
    if size.layers:
        shape = (size.prompt + size.sampled - 1, size.layers, size.top_k)
        rows = rng.integers(0, 128, shape, dtype=np.uint8)
        choice["routed_experts"] = {"data": base64.b64encode(rows.tobytes()).decode(), "shape": shape, "start": 0}
    return json.dumps({"request_id": "r", "choices": [choice]}, separators=(",", ":")).encode()


class Server(Listener):
    """Sends one answer to every request."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    async def answer(self, request: Request) -> Answer:  # noqa: ARG002 - one answer for all
        """The answer."""
        return Answer(
            [head(200, {"content-type": "application/json", "content-length": str(len(self._body))}), self._body]
        )


class Renderer:
    """Renders and parses nothing."""

    supports_tools = True

    def get_stop_token_ids(self) -> list[int]:
        """One."""
        return [1]

    def parse_response(self, *_: Any, **__: Any) -> Any:
        """Nothing."""
        return SimpleNamespace(content="", reasoning_content=None, tool_calls=[], reasoning_complete=None)


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """The result with arrays as lists and views as text."""
    shown = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in result.items()}
    if shown["routed_experts"] is not None:
        shown["routed_experts"] = shown["routed_experts"] | {"data": bytes(shown["routed_experts"]["data"])}
    return shown


async def measure(size: Size) -> dict[str, list[float]]:
    """Seconds of each round for each contender."""
    server = Server(answer_of(size))
    url = await server.start("127.0.0.1", 0)
    prompt = list(range(100, 100 + size.prompt))
    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    native = tito.AsyncTitoClient(url, model=None, http="native", preflight=False, trust_env=False)

    def asks(function: Callable[..., Awaitable[dict[str, Any]]], by: Any) -> Callable[[], Awaitable[dict[str, Any]]]:
        return lambda: function(
            client=by, renderer=Renderer(), messages=[], model="m", prompt_ids=prompt, max_prompt_len=1 << 30
        )

    contenders = {
        "theirs": asks(THEIRS, client),
        "ours by AsyncOpenAI": asks(drop_in.generate, client),
        "ours by AsyncTitoClient": asks(drop_in.generate, native),
    }
    try:
        results = [comparable(await ask()) for ask in contenders.values()]
        assert all(result == results[0] for result in results)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        order = [*contenders]
        for _ in range(ROUNDS):
            random.shuffle(order)
            for name in order:
                begun = time.perf_counter()
                await contenders[name]()
                times[name].append(time.perf_counter() - begun)
        return times
    finally:
        await client.close()
        await native.aclose()
        await server.stop()


def main() -> int:
    """Print a row for each size and contender."""
    for name, size in SIZES.items():
        print(name)
        times = asyncio.run(measure(size))
        for contender, taken in times.items():
            faster = times_faster(ratio(times["theirs"], taken))
            print(f"  {contender:24} {statistics.median(taken) * 1e3:8.2f} ms  {faster}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
