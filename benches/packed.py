"""prime-rl's packed answers, beside renderers 0.1.13.dev17: `make bench-packed`.

python -m benches.packed [--rounds N]

``renderers`` runs the functions that its client runs on an answer; its token ids stay a list. It hands a sampling mask
and routed experts on as they came, so they are read with numpy, unchecked. Both get the same bytes in one interleaved
run, and the arrays are compared before anything is timed. Memory is that of a fresh process.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import renderers.client
from numpy.typing import NDArray

import dynamo_tito as tito
from benches.measure import Table, interleave, milliseconds, ratio
from support import packed
from support.writing import compact

VERSION = "0.1.13.dev17"
_ROUNDS = 25
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Case:
    """One answer.

    Attributes:
        completion: tokens that were sampled.
        head: candidates that the reader selects at each position; 0 for log-probabilities without candidates.
        mask: whether there is a sampling mask.
        prompt: tokens of the prompt.
        layers: decoder layers with routed experts.
        wide: whether the experts are wanted as int32 instead of as they came.
    """

    completion: int
    head: int = 0
    mask: bool = False
    prompt: int = 1_024
    layers: int = 0
    wide: bool = False


CASES = {
    "16 tokens": Case(16),
    "256 tokens": Case(256),
    "256 tokens, mask": Case(256, mask=True),
    "256 tokens, 5 candidates": Case(256, head=5),
    "65,536 tokens": Case(65_536),
    "65,536 tokens, mask": Case(65_536, mask=True),
    "65,536 tokens, 1 candidate": Case(65_536, head=1),
    "65,536 tokens, 5 candidates": Case(65_536, head=5),
    "16,384 tokens, 5 candidates, mask": Case(16_384, head=5, mask=True),
    "256 tokens, 48 x 8 experts": Case(256, layers=48),
    "16,384 of 65,536 tokens, 48 x 8 experts": Case(16_384, prompt=49_152, layers=48),
    "the same, experts as int32": Case(16_384, prompt=49_152, layers=48, wide=True),
}


class Answer(NamedTuple):
    """What is read of a body; a mask is its ids and how many there are at each position."""

    token_ids: Any
    logprobs: NDArray[Any]
    mask: tuple[NDArray[np.int32], NDArray[Any]] | None
    experts: NDArray[Any] | None
    top: Any = None


@cache
def sample(case: Case) -> packed.PackedSample:
    """What a case's answer holds."""
    # The client asks for two candidates more than are wanted.
    candidates = case.head + 2 if case.head else 8
    return packed.invent(
        0,
        prompt=case.prompt,
        completion=case.completion,
        candidates=candidates,
        masked=case.mask,
        layers=case.layers,
        top_k=8,
    )


def body(case: Case) -> bytes:
    """The answer."""
    return compact(packed.answer(sample(case), rows=bool(case.head), mask=case.mask))


def theirs(case: Case, data: bytes) -> Answer:
    """What the client of renderers does with an answer."""
    client = renderers.client
    choice = client.parse_generate_response(data)["choices"][0]
    ids, top = choice["token_ids"], None
    if case.head:
        logprobs, *top = client._parse_compact_logprobs(choice, ids, case.head)  # noqa: SLF001 - what its client calls
    else:
        logprobs = client._parse_completion_logprobs(choice, ids)  # noqa: SLF001 - what its client calls
    mask = choice["sampling_mask"]
    kept = None if mask is None else (_array(mask["ids"]), _array(mask["counts"]))
    experts = choice["routed_experts"]
    if experts is not None:
        raw = binascii.a2b_base64(experts["data"])
        experts = np.frombuffer(raw, experts["dtype"]).reshape(experts["shape"])
        experts = experts.astype(np.int32) if case.wide else experts
    return Answer(ids, logprobs, kept, experts, top)


def _array(value: dict[str, Any]) -> NDArray[np.int32]:
    return np.frombuffer(base64.b64decode(value["data"]), np.int32)


def ours(case: Case, data: bytes) -> Answer:
    """This library."""
    completion = tito.decode(
        data, wire="vllm_generate", prompt_len=case.prompt, experts="int32" if case.wide else "native"
    )
    assert completion.logprobs is not None
    mask, experts = completion.sampling_mask, completion.routed_experts
    return Answer(
        completion.token_ids,
        completion.logprobs,
        None if mask is None else (mask.token_ids, mask.offsets),
        None if experts is None else experts.array,
        completion.top_logprobs,
    )


READERS: dict[str, Callable[[Case, bytes], Answer]] = {"renderers": theirs, "dynamo-tito": ours}


def prove(case: Case, data: bytes) -> None:
    """Raise unless both read the same."""
    one, other, truth = theirs(case, data), ours(case, data), sample(case)
    np.testing.assert_array_equal(one.token_ids, other.token_ids, strict=False)
    np.testing.assert_array_equal(one.logprobs, other.logprobs)
    np.testing.assert_array_equal(truth.logprobs, other.logprobs)
    assert (one.mask is None) == (other.mask is None) == (not case.mask)
    if one.mask is not None and other.mask is not None:
        np.testing.assert_array_equal(one.mask[0], other.mask[0])
        np.testing.assert_array_equal(one.mask[1], np.diff(other.mask[1]))
    assert (one.experts is None) == (other.experts is None) == (not case.layers)
    if case.layers:
        np.testing.assert_array_equal(one.experts, other.experts, strict=True)
    if case.head:
        for ids, logprobs, (mine, values) in zip(*one.top, other.top, strict=True):
            order = [int(at) for at in np.argsort(-values, kind="stable") if not np.isnan(values[at])][: len(ids)]
            assert (ids, logprobs) == (mine[order].tolist(), values[order].tolist())


def times(rounds: int) -> Table:
    """Every case, and the ratio of the two."""
    rows, data = [], {}
    for name, case in CASES.items():
        text = body(case)
        prove(case, text)
        measured = interleave({reader: partial(read, case, text) for reader, read in READERS.items()}, rounds)
        data[name] = ratio(measured["renderers"], measured["dynamo-tito"])
        medians = [milliseconds(statistics.median(measured[reader])) for reader in READERS]
        rows.append([name, f"{len(text) / 1e6:.2f}", *medians, f"{data[name]:.1f}x"])
    columns = ["answer", "MB", "renderers, ms", "dynamo-tito, ms", "ratio"]
    return Table(f"Packed answers beside renderers {VERSION}", columns, rows, f"Medians of {rounds} rounds.", data)


def memory() -> Table:
    """Peak resident memory beyond what was there before and beyond the arrays, in MiB."""
    rows, data = [], {}
    for name, case in CASES.items():
        if case.completion < 16_384:
            continue
        runs = {reader: [_child(name, reader) for _ in range(3)] for reader in READERS}
        beyond = {reader: statistics.median(peak - held for peak, held in found) for reader, found in runs.items()}
        data[name] = beyond["dynamo-tito"]
        figures = [f"{beyond[reader]:+.2f}" for reader in READERS]
        rows.append([name, f"{runs['dynamo-tito'][0][1]:.1f}", *figures])
    columns = ["answer", "result, MiB", "renderers: beyond it", "dynamo-tito: beyond it"]
    return Table(
        "Memory", columns, rows, "Medians of three processes; below zero: what the process held already.", data
    )


def _child(name: str, reader: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benches.packed", "--child", name, reader]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, held = json.loads(done.stdout)
    return peak, held


def _peak(name: str, reader: str) -> tuple[float, float]:
    case, read = CASES[name], READERS[reader]
    small = Case(16, head=case.head, mask=case.mask, layers=case.layers, wide=case.wide)
    read(small, body(small))  # loads code and tables
    data = body(case)
    sample.cache_clear()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _status("VmRSS")
    found = read(case, data)
    peak = _status("VmHWM") - before
    top = found.top if isinstance(found.top, tito.TopLogprobs) else None
    arrays = [found.token_ids, found.logprobs, *(found.mask or ()), found.experts]
    arrays += [] if top is None else [top.token_ids, top.logprobs, top.offsets]
    return peak, sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) / _MIB


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024.0


def main() -> None:
    """Prove, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(_peak(*asked.child)))
        return
    found = importlib.metadata.version("renderers")
    if found != VERSION:
        parser.error(f"renderers {found} is installed, {VERSION} is compared with: make bench-packed")
    print(times(asked.rounds).markdown(), flush=True)
    print(memory().markdown())


if __name__ == "__main__":
    main()
