"""The figures this project claims, measured here and now. Every answer is proven right before its figure counts.

python -m benches.claims              all of them
python -m benches.claims speed memory only these
python -m benches.claims --check      exit with status 1 if one is missed
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dynamo_tito as tito
from benches.figures import Figure, main
from support import plain
from support.bodies import DIALECTS
from support.samples import invent
from support.truth import check
from support.writing import compact

ROOT = Path(__file__).parents[1]
PROMPT, COMPLETION, LAYERS, TOP_K = 49_152, 16_384, 48, 8
DIALECT = DIALECTS["prime_generate"]
ROUNDS = 15


def response() -> bytes:
    """64k tokens, 48 layers x top-8, 34 MB; made once and kept."""
    path = ROOT / ".bench" / f"response-{PROMPT}-{COMPLETION}-{LAYERS}x{TOP_K}.json"
    if not path.exists():
        sample = invent(0, prompt=PROMPT, completion=COMPLETION, layers=LAYERS, top_k=TOP_K)
        body = compact(DIALECT.build([sample], DIALECT.container))
        check(tito.decode(body, wire=DIALECT.wire, prompt_len=PROMPT), sample, DIALECT, DIALECT.container)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    return path.read_bytes()


# ---------------------------------------------------------------------------------------------------- memory

_MEMORY = """
import sys
import dynamo_tito as tito

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(sys.argv[2]))

body = open(sys.argv[1], "rb").read()
tito.decode(b'{"choices":[{"token_ids":[]}]}', wire="vllm_generate")
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # the peak starts anew from here
before = peak()
completion = tito.decode(body, wire="vllm_generate", prompt_len=int(sys.argv[3]))
after = peak()
result = completion.token_ids.nbytes + completion.logprobs.nbytes + completion.prompt_token_ids.nbytes
print(after - before, result + completion.routed_experts.array.nbytes)
"""


def memory() -> list[Figure]:
    """Peak memory of one decode in a fresh process, beyond what was there before."""
    body = response()
    path = next((ROOT / ".bench").glob("response-*.json"))
    extra, result = _in_fresh_process(_MEMORY, str(path), "VmHWM", str(PROMPT))
    name = f"peak memory of decoding {len(body) / 1e6:.0f} MB into {result / 1e6:.0f} MB, over the result"
    return [Figure(name, f"{100 * (extra - result) / result:+.1f} %", "<= +5 %", extra <= 1.05 * result)]


def _in_fresh_process(code: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


# --------------------------------------------------------------------------------------------------- latency


def latency() -> list[Figure]:
    """How long a 1 ms ticker waits while another thread decodes, less what it waits anyway.

    Beside it what it waits while another thread hashes for as long, which needs a core but never the interpreter:
    where that is no better, the machine has no core to spare, and the figure is its scheduler's.
    """
    body = response()

    def decode() -> None:
        tito.decode(body, wire=DIALECT.wire)

    decode()
    span = _seconds(decode)
    chunk = body[: int(len(body) * span / _seconds(lambda: hashlib.sha256(body)))]

    def rest() -> None:
        time.sleep(span)

    def hash_as_long() -> None:
        hashlib.sha256(chunk)

    rounds = [tuple(_worst_tick(work) for work in (decode, rest, hash_as_long)) for _ in range(ROUNDS)]
    busy, idle, hashing = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
    name = f"worst tick of 1 ms in a decode, over idle (hashing: {hashing - idle:+.2f} ms)"
    return [Figure(name, f"{busy - idle:+.2f} ms", "<= 2 ms", busy - idle <= 2)]


def _worst_tick(work: Callable[[], None]) -> float:
    """The longest that a tick came late while ``work`` ran in another thread, in seconds."""
    late = 0.0
    done = threading.Event()

    def tick() -> None:
        nonlocal late
        while not done.is_set():
            begin = time.perf_counter()
            time.sleep(0.001)
            late = max(late, time.perf_counter() - begin - 0.001)

    ticker = threading.Thread(target=tick)
    worker = threading.Thread(target=work)
    ticker.start()
    time.sleep(0.005)
    late = 0.0
    worker.start()
    worker.join()
    done.set()
    ticker.join()
    return late


# ----------------------------------------------------------------------------------------------------- speed


def speed() -> list[Figure]:
    """The same bytes, prompt rows trimmed, beside json + base64 + numpy."""
    body = response()

    def ours() -> tito.Completion:
        return tito.decode(body, wire=DIALECT.wire, prompt_len=PROMPT, routed_experts_prompt_start=PROMPT)

    def theirs() -> tuple[object, object, object]:
        return plain.decode(body, wire=DIALECT.wire, first=PROMPT)

    completion, (ids, logprobs, experts) = ours(), plain.decode(body, wire=DIALECT.wire, first=PROMPT)
    assert completion.logprobs is not None
    assert completion.routed_experts is not None
    assert np.array_equal(completion.token_ids, ids)
    assert np.array_equal(completion.logprobs, logprobs)
    assert np.array_equal(completion.routed_experts.array, experts)
    del completion, ids, logprobs, experts

    rounds = [(_seconds(ours), _seconds(theirs)) for _ in range(ROUNDS)]
    ratio = statistics.median(slow / fast for fast, slow in rounds)
    fast, slow = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
    name = f"faster than json + base64 + numpy, trimmed ({fast:.1f} ms, {slow:.0f} ms)"
    return [Figure(name, f"{ratio:.0f} x", ">= 15 x", ratio >= 15)]


def _seconds(call: Callable[[], object]) -> float:
    gc.collect()
    begin = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - begin
    del result
    return elapsed


# --------------------------------------------------------------------------------------------- size and start

_IMPORT = """
import time
import numpy
begin = time.perf_counter()
import dynamo_tito
print(round((time.perf_counter() - begin) * 1e6))
"""


def package() -> list[Figure]:
    """The size of the wheel in dist/ and the time that importing takes."""
    figures = []
    for wheel in sorted((ROOT / "dist").glob("*.whl")):
        size = wheel.stat().st_size / 1e6
        figures.append(Figure(f"size of {wheel.name}", f"{size:.2f} MB", "< 4 MB", size < 4))
    if not figures:
        print("no wheel in dist/: make wheel", file=sys.stderr)
    milliseconds = statistics.median(_in_fresh_process(_IMPORT)[0] for _ in range(ROUNDS)) / 1e3
    name = "import dynamo_tito, beyond importing numpy"
    return [*figures, Figure(name, f"{milliseconds:.1f} ms", "< 30 ms", milliseconds < 30)]


MEASUREMENTS: dict[str, Callable[[], list[Figure]]] = {
    "speed": speed,
    "memory": memory,
    "latency": latency,
    "package": package,
}

if __name__ == "__main__":
    sys.exit(main(__doc__, MEASUREMENTS))
