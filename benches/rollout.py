"""A rollout of 100 turns that ends at 128k tokens with 48 x 8 routing: what a turn costs, and what is held.

python -m benches.rollout [--renderer extension|lists|qwen3] [--prompt-start trim|ignore|refuse] [--framing length]

The renderers: one that hands over only what is new; the same with whole lists of tokens; `renderers`' own for Qwen3.

A turn's own share is its time less what the client needs for the same request: the prompt is sent again on every turn,
whoever does it. The engine runs in a process of its own. Memory is the peak of this process beyond the peak of one such
request alone, beside one copy of the routing at wire width.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dynamo_tito import simulator, trim_memory
from dynamo_tito._client import AsyncTitoClient
from dynamo_tito.rollout import Rollout
from dynamo_tito.simulator import Fault
from dynamo_tito.simulator.model import Model
from support import qwen
from support.chat import ChatRenderer, ShortRenderer

LAYERS, TOP_K = 48, 8
SAMPLED = 0.75
"""Share of a turn's tokens that are sampled."""


def main() -> None:
    options = _options()
    here, there = multiprocessing.Pipe()
    engine = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, options))
    engine.start()
    try:
        url = here.recv()
        asyncio.run(measure(url, options))
    finally:
        here.send(None)
        engine.join(20)


async def measure(url: str, options: argparse.Namespace) -> None:
    rollout = Rollout(_renderer(options.renderer))
    per_turn = options.tokens // options.turns
    sampled = int(per_turn * SAMPLED)
    text = "0" * (per_turn - sampled - 40)
    own, asked = [], []
    async with AsyncTitoClient(
        url, model="tito-model", transport="dynamo_chat", experts="native", http=options.http, trust_env=False
    ) as client:
        timed = _Timed(client)
        idle = _now()
        # As long as the last one will be: what HTTP and the engine's echo of the prompt take.
        await client.generate(
            np.arange(options.tokens) % 1_000,
            sampling_params={"max_tokens": 2},
            routed_experts_prompt_start=options.tokens - 1,
        )
        request = _peak() - idle
        _now()
        for _ in range(options.turns):
            begun = time.perf_counter()
            await rollout.step(
                timed,  # type: ignore[arg-type]
                [{"role": "user", "content": text}],
                sampling_params={"max_tokens": sampled},
                deadline=60.0,
            )
            own.append((time.perf_counter() - begun - timed.seconds) * 1e3)
            asked.append(timed.seconds * 1e3)
    tokens, rows = len(rollout.token_ids), sum(turn.rows.nbytes for turn in rollout.turns if turn.rows is not None)
    peak = _peak() - idle
    turns = rollout.turns
    del rollout
    _report(own, asked, tokens, rows, (peak, request), options)
    _check(turns, _vocabulary(options.renderer))


def _renderer(kind: str) -> Any:
    if kind == "qwen3":
        from renderers import Qwen3Renderer, Qwen3RendererConfig  # noqa: PLC0415 - only where it is asked for

        return Qwen3Renderer(qwen.QwenTokenizer(), Qwen3RendererConfig(enable_thinking=False))
    return ShortRenderer() if kind == "extension" else ChatRenderer()


def _vocabulary(kind: str) -> int:
    return qwen.VOCAB_SIZE if kind == "qwen3" else 32_000


def _report(
    own: list[float], asked: list[float], tokens: int, rows: int, peaks: tuple[int, int], options: argparse.Namespace
) -> None:
    peak, request = peaks
    one_copy = (tokens - 1) * LAYERS * TOP_K
    first = statistics.mean(own[:10])
    late = [statistics.median(own[n : n + 10]) for n in range(10, len(own), 10)]
    print(f"{len(own)} turns, {tokens:,} tokens, {LAYERS} x top-{TOP_K}; the server {options.prompt_start}s the start; "
          f"renderer: {options.renderer}")  # fmt: skip
    print(f"per turn, without the request: first ten {first:.2f} ms on average")
    print(f"  medians of the following tens: {', '.join(f'{value:.2f}' for value in late)} ms")
    print(f"  worst ten / first ten: {max(late) / first:.2f} (at most 1.5); slowest turn {max(own[10:]):.2f} ms")
    print(f"request (engine included): first ten {statistics.mean(asked[:10]):.0f} ms, last ten "
          f"{statistics.mean(asked[-10:]):.0f} ms")  # fmt: skip
    print(f"routing held: {rows / 1e6:.1f} MB, one copy at wire width is {one_copy / 1e6:.1f} MB")
    own_peak = peak - request
    print(
        f"peak above the idle process: {peak / 1e6:.1f} MB; of one request of that length alone: {request / 1e6:.1f} MB"
    )
    print(f"peak beyond that request: {own_peak / 1e6:.1f} MB, {own_peak / one_copy:.2f} copies (at most 1.2)")


def _check(turns: list[Any], vocabulary: int) -> None:
    """The routing held is what the engine computed."""
    last = turns[-1]
    held = Rollout(ShortRenderer())
    sample = held.sample(last)
    whole = sample.routed_experts
    assert whole is not None
    model = Model(num_layers=LAYERS, top_k=TOP_K, vocab_size=vocabulary)
    ids = sample.token_ids.astype(np.int64)
    for first in range(0, len(ids) - 1, 8_192):
        stop = min(first + 8_192, len(ids) - 1)
        assert np.array_equal(whole[first:stop], model.routing(ids, version="default", start=first, stop=stop))
    print("every row equal to the engine's")


class _Timed:
    """A client that notes how long its last call took."""

    def __init__(self, client: AsyncTitoClient) -> None:
        self._client = client
        self.seconds = 0.0

    async def generate(self, *args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return await self._client.generate(*args, **options)
        finally:
            self.seconds = time.perf_counter() - begun


def _now() -> int:
    """Resident bytes, after the memory kept for reuse is given back."""
    trim_memory()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    return pages * resource.getpagesize()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _serve(channel: Connection, options: argparse.Namespace) -> None:
    framed = Fault(kind="length", by=0, framing=options.framing)  # a whole body with another framing
    with simulator.running(
        num_layers=LAYERS,
        top_k=TOP_K,
        vocab_size=_vocabulary(options.renderer),
        prompt_start=options.prompt_start,
        keep_records=1,
        max_model_len=1 << 20,
        fault_rate=1.0 if options.framing == "length" else 0.0,
        random_faults=(framed,),
    ) as engine:
        channel.send(engine.url)
        channel.recv()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128 << 10)
    parser.add_argument("--prompt-start", choices=["trim", "ignore", "refuse"], default="trim")
    parser.add_argument("--http", choices=["native", "httpx"], default="native")
    parser.add_argument("--renderer", choices=["extension", "lists", "qwen3"], default="extension")
    parser.add_argument("--framing", choices=["chunked", "length"], default="chunked", help="how a body's end is told")
    return parser.parse_args()


if __name__ == "__main__":
    main()
