"""What scoring costs: memory of a 128k-token score, request to arrays, and time from a 32k-token body to arrays.

python -m benches.teacher              all of it
python -m benches.teacher memory       only that
python -m benches.teacher --check      exit with status 1 if a figure is missed

Every answer is proven right before its figure counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import dynamo_tito as tito
from benches import cases, measure
from benches.figures import Figure, main
from dynamo_tito._types import Float64Array, Int32Array, Wire
from dynamo_tito.simulator.http import Answer, Listener, Request, head, in_thread

LONG = 131_072
_MIB = 1 << 20
_LIMIT = 1.2
ROUNDS = 15
_VOCABULARY = 150_000


@dataclass(frozen=True, slots=True)
class Teacher:
    """A server's answer to a scoring request of ``LONG`` tokens."""

    wire: Wire
    top_k: int
    body: bytes
    ids: Int32Array
    logprobs: Float64Array


def teacher(wire: Wire, top_k: int) -> Teacher:
    """An answer from a seed."""
    rng = np.random.default_rng(top_k)
    ids = rng.integers(0, _VOCABULARY, LONG, dtype=np.int32)
    # float32 as its shortest float64, as vLLM and SGLang print them: 17 digits.
    logprobs = -rng.exponential(1.0, LONG).astype(np.float32).astype(np.float64)
    logprobs[0] = np.nan
    rows = [*zip(ids.tolist(), logprobs.tolist(), strict=True)][1:]
    scores: list[Any]
    if wire == "sglang_generate":
        scores = [[None, int(ids[0]), None], *([value, token, None] for token, value in rows)]
        document: dict[str, Any] = {"output_ids": [7], "meta_info": {"input_token_logprobs": scores}}
    else:
        entry = {"rank": 1, "decoded_token": None}
        others = ((token + 1 + place, value - 0.5 * place) for token, value in rows for place in range(top_k))
        scores = [None]
        for token, value in rows:
            listed = [(token, value), *(next(others) for _ in range(top_k))]
            scores.append({str(name): {"logprob": score, **entry} for name, score in listed})
        document = {"choices": [{"index": 0, "token_ids": [7], "logprobs": None}], "prompt_logprobs": scores}
    return Teacher(wire, top_k, json.dumps(document, separators=(",", ":")).encode(), ids, logprobs)


# ---------------------------------------------------------------------------------------------------- memory

_SCORE = """
import sys
import numpy as np
import dynamo_tito as tito

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

url, transport, top_k, data = sys.argv[1:]
kept = np.load(data)
ids, logprobs = kept["ids"], kept["logprobs"]
with tito.TitoClient(url, model=None, transport=transport, preflight=False, trust_env=False) as client:
    client.score(ids[:2])  # everything is loaded and connected
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak starts anew from here
    before = status("VmRSS")
    scored = client.score(ids, top_k=int(top_k))
    peak = status("VmHWM") - before
assert np.array_equal(scored.logprobs, logprobs, equal_nan=True)
top = scored.top
print(peak, scored.logprobs.nbytes + top.token_ids.nbytes + top.logprobs.nbytes + top.offsets.nbytes)
"""


def memory() -> Iterator[Figure]:
    """Peak memory of one whole score in a fresh process, request and HTTP included, beyond what was there before."""
    whole: list[tuple[Wire, int]] = [("vllm_generate", 0), ("vllm_generate", 4), ("sglang_generate", 0)]
    for wire, top_k in whole:
        given = teacher(wire, top_k)
        cases.KEPT.mkdir(exist_ok=True)
        data = cases.KEPT / f"teacher-{wire}-{top_k}.npz"
        np.savez(data, ids=given.ids, logprobs=given.logprobs)
        with _served(given) as url:
            runs = [_fresh(_SCORE, url, wire, str(top_k), str(data)) for _ in range(3)]
        data.unlink()
        peak, result = (statistics.median(column) for column in zip(*runs, strict=True))
        ratio = peak / (result + len(given.body))
        size = f"body {len(given.body) / _MIB:.1f} + result {result / _MIB:.1f} MiB"
        name = f"peak of scoring 128k, {wire}, top_k={top_k} ({size})"
        yield Figure(name, f"{ratio:.2f} x", f"<= {_LIMIT} x", ratio <= _LIMIT)


@contextmanager
def _served(given: Teacher) -> Iterator[str]:
    """A server that answers every long request with the body, every other with one of two tokens."""
    short = _short(given)

    class Scorer(Listener):
        async def answer(self, request: Request) -> Answer:
            body = given.body if len(request.body) > LONG else short
            return Answer([head(200, {"content-type": "application/json", "content-length": str(len(body))}) + body])

    server = Scorer()
    with in_thread("teacher") as run:
        try:
            yield run(server.start("127.0.0.1", 0))
        finally:
            run(server.stop())


def _short(given: Teacher) -> bytes:
    document = json.loads(given.body)
    holder, key = (document, "prompt_logprobs")
    if given.wire == "sglang_generate":
        holder, key = (document["meta_info"], "input_token_logprobs")
    holder[key] = holder[key][:2]
    return json.dumps(document).encode()


def _fresh(code: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


# ------------------------------------------------------------------------------------------------------ time


def time() -> Iterator[Figure]:
    """From a body of case e to arrays, beside json and ``decode``, which ``peers.py`` holds against every rival."""
    for name in ("e_vllm", "e_vllm_k2", "e_nvext"):
        body, truth = cases.load(name)
        wire = cases.CASES[name].wire
        ids = _prompt(body, wire)

        def score(body: bytes = body, wire: Wire = wire, ids: Int32Array = ids) -> tito.PromptLogprobs:
            return tito.decode_prompt_logprobs(body, wire=wire, prompt_token_ids=ids)

        def decode(body: bytes = body, wire: Wire = wire) -> tito.PromptLogprobs | None:
            return tito.decode(body, wire=wire).prompt_logprobs

        def parse(body: bytes = body, wire: Wire = wire, ids: Int32Array = ids) -> Float64Array:
            positions = _maps(json.loads(body), wire)
            looked_up = (entry[str(token)]["logprob"] for entry, token in zip(positions[1:], ids[1:], strict=True))
            return np.array([np.nan, *looked_up])

        decoded = decode()
        assert decoded is not None
        assert truth.prompt_logprobs is not None
        for found in (score().logprobs, decoded.logprobs, parse()):
            assert np.array_equal(found, truth.prompt_logprobs, equal_nan=True)
        del decoded
        times = measure.interleave({"score": score, "decode": decode, "json": parse}, ROUNDS)
        own = measure.ratio(times["score"], times["decode"])
        json_ratio = measure.ratio(times["json"], times["score"])
        took = statistics.median(times["score"])
        size = f"{len(body) / 1e6:.1f} MB, {len(ids):,} tokens, {took:.2f} ms; json takes {json_ratio:.0f} times that"
        yield Figure(f"{name} ({size}), over decode", f"{own:.2f} x", f"<= {_LIMIT} x", own <= _LIMIT)


def _maps(document: Any, wire: Wire) -> Any:
    return document["nvext"]["engine_data"]["prompt_logprobs"] if wire == "dynamo_chat" else document["prompt_logprobs"]


def _prompt(body: bytes, wire: Wire) -> Int32Array:
    """The prompt that a body echoes."""
    echoed = tito.decode(body, wire=wire).prompt_token_ids
    assert echoed is not None
    return echoed


MEASUREMENTS: dict[str, Callable[[], Iterator[Figure]]] = {"memory": memory, "time": time}


if __name__ == "__main__":
    sys.exit(main(__doc__, MEASUREMENTS))
