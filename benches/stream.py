"""What a streamed answer costs: CPU a chunk beside httpx-sse, json and numpy on the same bytes, and the peak of memory.

``chunks``: 65,536 chunks of one token each with one log-probability and one alternative, as vLLM's generate writes
them, fed as a socket is read (64 KiB) and one event at a time. ``routing``: 4,096 chunks, and a last line of 67 MB of
routed experts. ``memory``: the peak of both, in a process of its own that reads the stream from a file.
"""

from __future__ import annotations

import base64
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import numpy as np
from numpy.typing import NDArray

import dynamo_tito as tito
from benches.figures import Figure, main
from benches.measure import interleave, ratio

_CHUNKS = 1 << 16
_READ = 1 << 16
_ROUNDS = 15
_SPARE = 2 << 20  # bytes that a stream may take beside its result and its largest event

_LAYERS, _TOP_K, _ROWS = 48, 8, 131_000
"""As of c_vllm: a line of 67 MB. Of the last huge page of its memory little is left over."""

Truth = tuple[NDArray[np.int32], NDArray[Any], NDArray[np.int32]]


def events(chunks: int, experts: str | None = None) -> tuple[list[bytes], Truth]:
    """The events of a stream, and its ids, log-probabilities and first alternatives."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 150_000, chunks).astype(np.int32)
    logprobs = (-random.exponential(1.0, chunks)).astype(np.float32).astype(np.float64)
    made = []
    for number, (token, logprob) in enumerate(zip(ids.tolist(), logprobs.tolist(), strict=True)):
        last = number == chunks - 1
        entry = {"token_id": token, "logprob": logprob, "rank": 1}
        choice = {
            "index": 0,
            "finish_reason": "length" if last else None,
            "stop_reason": None,
            "token_ids": [token],
            "routed_experts": experts if last else None,
            "sampling_mask": None,
            "weight_versions": None,
            "logprobs": {"content": [{**entry, "top_logprobs": [entry]}]},
        }
        head = {"request_id": "generate-tokens-b928de8986fa592c", "usage": None, "output_mode": "tokens"}
        made.append(_event(json.dumps({**head, "choices": [choice]}, separators=(",", ":"))))
    return [*made, _event("[DONE]")], (ids, logprobs, ids)


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def reads(stream: bytes) -> list[bytes]:
    """The stream as a socket is read."""
    return [stream[at : at + _READ] for at in range(0, len(stream), _READ)]


def _routed(rows: int) -> str:
    """An npy file of routed experts, as vLLM writes it."""
    ids = np.random.default_rng(1).integers(0, 128, (rows, _LAYERS, _TOP_K)).astype(np.uint8)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {_LAYERS}, {_TOP_K}), }}".ljust(117) + "\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00v\x00" + text.encode() + ids.tobytes()).decode()


# ----------------------------------------------------------------------------------------------------------- the ways


def ours(feeds: Sequence[bytes], *, deltas: bool = True, **options: Any) -> tito.Completion:
    """This library."""
    decoder = tito.StreamDecoder(wire="vllm_generate", deltas=deltas, **options)
    for data in feeds:
        decoder.feed(data)
    return decoder.finish()


class _Feeds(httpx.SyncByteStream):
    def __init__(self, feeds: Sequence[bytes]) -> None:
        self.feeds = feeds

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.feeds)


def theirs(feeds: Sequence[bytes]) -> Truth:
    """httpx-sse, json and numpy."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Feeds(feeds))
    ids: list[int] = []
    logprobs: list[float] = []
    alternatives: list[int] = []
    for event in httpx_sse.EventSource(response).iter_sse():
        if event.data == "[DONE]":
            break
        for choice in json.loads(event.data)["choices"]:
            ids += choice["token_ids"]
            for entry in choice["logprobs"]["content"]:
                logprobs.append(entry["logprob"])
                alternatives += [top["token_id"] for top in entry["top_logprobs"]]
    return np.array(ids, np.int32), np.array(logprobs), np.array(alternatives, np.int32)


def _prove(feeds: Sequence[bytes], truth: Truth) -> None:
    found = ours(feeds)
    assert found.logprobs is not None
    assert found.top_logprobs is not None
    for arrays in ((found.token_ids, found.logprobs, found.top_logprobs.token_ids), theirs(feeds)):
        _equal(arrays, truth)


def _equal(arrays: Truth, truth: Truth) -> None:
    for place in range(3):
        assert np.array_equal(arrays[place], truth[place])


# -------------------------------------------------------------------------------------------------------- the figures


def chunks() -> Iterable[Figure]:
    """CPU a chunk, and how many times less than theirs in the same round."""
    made, truth = events(_CHUNKS)
    for name, feeds in (("64 KiB a feed", reads(b"".join(made))), ("an event a feed", made)):
        _prove(feeds, truth)
        calls: dict[str, Callable[[], object]] = {
            "ours": functools.partial(ours, feeds),
            "without deltas": functools.partial(ours, feeds, deltas=False),
            "theirs": functools.partial(theirs, feeds),
        }
        times = interleave(calls, _ROUNDS, time.process_time)
        for way in ("ours", "without deltas"):
            cost = statistics.median(times[way]) * 1e3 / _CHUNKS
            yield Figure(f"CPU a chunk, {name}, {way}", f"{cost:.2f} us", "<= 2.5 us", cost <= 2.5)
            less = ratio(times["theirs"], times[way])
            # Theirs makes arrays at the end only: not comparable where ours makes five for every token.
            bound, held = (">= 15", less >= 15) if feeds is not made or way != "ours" else ("", True)
            yield Figure(f"httpx-sse + json + numpy take, {name}, {way}", f"{less:.0f} times", bound, held)


def routing() -> Iterable[Figure]:
    """A last line of 67 MB."""
    made, truth = events(4096, _routed(_ROWS))
    stream = b"".join(made)
    feeds = reads(stream)
    prompt = _ROWS - 4096 + 1
    found = ours(feeds, prompt_len=prompt, experts="native", routed_experts_prompt_start=0)
    assert np.array_equal(found.token_ids, truth[0])
    assert found.routed_experts is not None
    assert found.routed_experts.array.shape == (_ROWS, _LAYERS, _TOP_K)
    options: dict[str, Any] = {"prompt_len": prompt, "experts": "native", "routed_experts_prompt_start": 0}
    calls: dict[str, Callable[[], object]] = {
        "ours": functools.partial(ours, feeds, **options),
        "copy": functools.partial(_copied, feeds),
    }
    times = interleave(calls, _ROUNDS, time.process_time)
    cost = statistics.median(times["ours"])
    more = ratio(times["ours"], times["copy"])
    yield Figure("CPU of 4,096 chunks and a line of 67 MB, 64 KiB a feed", f"{cost:.0f} ms", "", held=True)
    yield Figure("... beside copying the same feeds into one bytearray", f"{more:.1f} times", "", held=True)


def _copied(feeds: Sequence[bytes]) -> bytearray:
    whole = bytearray()
    for data in feeds:
        whole += data
    return whole


def memory() -> Iterable[Figure]:
    """The peak of a process while it decodes, beyond what it had before."""
    for name, made, prompt in (
        ("65,536 chunks", events(_CHUNKS)[0], 1),
        ("a line of 67 MB", events(4096, _routed(_ROWS))[0], _ROWS - 4096 + 1),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "stream")
            path.write_bytes(b"".join(made))
            call = f"from benches.stream import peak; peak({str(path)!r}, {prompt})"
            run = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
        peak_bytes, result = map(int, run.stdout.split())
        bound = result + max(map(len, made)) + _SPARE
        shown = f"<= {bound / 2**20:.1f} MiB"
        yield Figure(f"peak memory, {name}", f"{peak_bytes / 2**20:.1f} MiB", shown, peak_bytes <= bound)


def peak(path: str, prompt: int) -> None:
    """Print the peak of memory while a file is decoded, and the bytes of the result."""
    ours(events(2)[0])  # what is made once
    decoder = tito.StreamDecoder(
        wire="vllm_generate", prompt_len=prompt, experts="native", routed_experts_prompt_start=0
    )
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with Path(path).open("rb", buffering=0) as file:
        while data := file.read(_READ):
            decoder.feed(data)
    found = decoder.finish()
    highest = _status("VmHWM")
    arrays: list[Any] = [found.token_ids, found.logprobs]
    if found.top_logprobs is not None:
        arrays += [found.top_logprobs.token_ids, found.top_logprobs.logprobs, found.top_logprobs.offsets]
    if found.routed_experts is not None:
        arrays.append(found.routed_experts.array)
    print(highest - before, sum(array.nbytes for array in arrays))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main(__doc__, {"chunks": chunks, "routing": routing, "memory": memory}))
