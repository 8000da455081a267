"""What the library does, on this machine: every recorded response, then a response of 64k tokens on every wire.

make demo
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

import dynamo_tito as tito
from dynamo_tito import simulator
from examples.rollout import confirmed, roll_all
from support import cases, made, plain
from support.bodies import DIALECTS, Dialect, Sample
from support.samples import invent
from support.writing import compact

PROMPT, COMPLETION, LAYERS, TOP_K = 49_152, 16_384, 48, 8
ROW = {"num_layers": LAYERS, "top_k": TOP_K}
ROUNDS = 5

SERVERS = {
    "dynamo_chat": "Dynamo",
    "dynamo_completions": "Dynamo",
    "dynamo_generate": "Dynamo",
    "vllm_0.31": "vLLM 0.31",
    "vllm_0.32": "vLLM 0.32 and later",
    "prime_generate": "prime-rl",
    "vllm_chat": "vLLM",
    "sglang": "SGLang",
}

# A pipe has no width to fit into.
console = Console(width=None if sys.stdout.isatty() else 140)


def main() -> None:
    """Run every part; each prints what it found and raises if an array is wrong."""
    info = tito.build_info()
    console.print(f"dynamo-tito {info['version']} ({info['profile']} build, {info['kernel']} kernel, {info['target']})")
    for part in (recorded, generated, rollouts):
        part()


# ------------------------------------------------------------------------------------------ recorded bodies


def recorded() -> None:
    """Decode every body in tests/data and hold the outcome against its case in tests/cases."""
    table = _table("Recorded and kept responses", "response", "wire", "tokens", "logprobs", "routed experts", "finish")
    refusals = _table("Refused, as they must be", "response", "error")
    for name, wire, outcome in _outcomes():
        if isinstance(outcome, tito.TitoError):
            error = Text(f"{type(outcome).__name__}: {outcome}", no_wrap=True, overflow="ellipsis")
            refusals.add_row(name, error)
        for completion in outcome if isinstance(outcome, list) else ():
            table.add_row(
                name,
                wire,
                str(len(completion.token_ids)),
                "yes" if completion.logprobs is not None else "none",
                _shape(completion.routed_experts),
                completion.finish_reason or "none",
            )
    console.print(table, refusals)
    console.print(
        f"{table.row_count} completions, every array as its case says; "
        f"{refusals.row_count} responses refused for the reason they should be.\n"
    )


def _outcomes() -> Iterator[tuple[str, str, list[tito.Completion] | tito.TitoError]]:
    for case in cases.CASES:
        if "file" in case:
            yield case["name"], case["wire"], _outcome(case)
    for body in made.BODIES:
        completions = tito.decode_choices(body.path.read_bytes(), wire=body.dialect.wire, **body.options)
        yield str(body), body.dialect.wire, completions


def _outcome(case: dict[str, Any]) -> list[tito.Completion] | tito.TitoError:
    try:
        completions = cases.completions(case, cases.body_of(case))
    except tito.TitoError as error:
        if getattr(error, "path", "") == case.get("error", {"path": None})["path"]:
            return error
        raise
    expected = case["expect"] if isinstance(case["expect"], list) else [case["expect"]]
    mode = cases.options_of(case).get("experts", "int32")
    found = [cases.written(one, mode) for one in completions]
    assert [*map(cases.text, found)] == [*map(cases.text, expected)]
    return completions


# ---------------------------------------------------------------------------------- 64k tokens on every wire


def generated() -> None:
    """Decode 64k tokens with 48 layers x top-8 on every wire, beside json + base64 + numpy."""
    table = _table(
        f"{PROMPT + COMPLETION:,} tokens, {COMPLETION:,} of them sampled, {LAYERS} layers x top-{TOP_K}, all rows",
        "wire",
        "server",
        "body",
        "tokens",
        "routed experts",
        "dynamo-tito",
        "",
        "by hand",
        "faster",
    )
    console.print(f"Inventing {PROMPT + COMPLETION:,} tokens ...")
    sample = invent(0, prompt=PROMPT, completion=COMPLETION, layers=LAYERS, top_k=TOP_K)
    dialects = [DIALECTS[name] for name in SERVERS]
    for dialect in track(dialects, "Decoding on every wire", console=console, transient=True):
        table.add_row(*_measured(dialect, sample))
    console.print(table)
    console.print(
        "By hand is json + base64 + numpy on the same bytes; every array was equal before anything was timed. "
        f"Medians of {ROUNDS} interleaved rounds, GB/s of body."
    )


def _measured(dialect: Dialect, sample: Sample) -> list[str]:
    body = compact(dialect.build([sample], dialect.container))

    def ours() -> tito.Completion:
        return tito.decode(body, wire=dialect.wire, prompt_len=PROMPT, **ROW)  # type: ignore[arg-type]

    def theirs() -> tuple[Any, Any, Any]:
        return plain.decode(body, wire=dialect.wire, **ROW)

    completion = ours()
    ids, logprobs, experts = theirs()
    assert completion.routed_experts is not None
    assert np.array_equal(completion.token_ids, ids)
    assert np.array_equal(completion.token_ids, sample.tokens)
    assert completion.logprobs is not None
    assert np.array_equal(completion.logprobs, logprobs)
    assert np.array_equal(completion.routed_experts.array, experts)
    shape = _shape(completion.routed_experts)
    del completion, ids, logprobs, experts

    rounds = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    fast, slow = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in rounds)
    return [
        dialect.wire,
        SERVERS[dialect.name],
        f"{len(body) / 1e6:.0f} MB",
        f"{COMPLETION:,}",
        shape,
        f"{fast * 1e3:.1f} ms",
        f"{len(body) / fast / 1e9:.1f} GB/s",
        f"{slow * 1e3:.0f} ms",
        f"{ratio:.0f} x",
    ]


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - begin
    del result
    return elapsed


# -------------------------------------------------------------------------------------- multi-turn rollouts


def rollouts() -> None:
    """Roll out conversations with tools against the embedded engine and hold each sample against its record."""
    table = _table(
        f"Multi-turn rollouts with tools, {LAYERS} layers x top-{TOP_K}",
        *("server", "turns", "tool calls", "tokens", "sampled", "routed experts"),
    )
    for start in ("refuse", "ignore", "trim"):
        with simulator.running(num_layers=LAYERS, top_k=TOP_K, eos_rate=0.1, prompt_start=start) as engine:
            for rollout in asyncio.run(roll_all(engine, rollouts=2, turns=8)):
                sample = confirmed(engine, rollout)
                assert sample.routed_experts is not None
                table.add_row(
                    f"Dynamo that {start}s the start of routing",
                    str(len(rollout.turns)),
                    str(sum(turn.finish_reason == "tool_calls" for turn in rollout.turns)),
                    f"{len(sample):,}",
                    f"{int(sample.mask.sum()):,}",
                    " x ".join(f"{size:,}" for size in sample.routed_experts.shape),
                )
    console.print(table)
    console.print("Every sample equal to what the engine recorded: token by token, row by row.")


# ---------------------------------------------------------------------------------------------------- tables


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        numeric = heading in ("tokens", "body", "dynamo-tito", "by hand", "faster", "")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading != "error")
    return table


def _shape(routed: tito.RoutedExperts | None) -> str:
    return "none" if routed is None else " x ".join(f"{size:,}" for size in routed.array.shape)


if __name__ == "__main__":
    main()
