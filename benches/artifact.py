"""A generation artifact of 65,536 tokens x 48 routers x 8 experts, beside zstd's own decompression of the same payload.

python -m benches.artifact [--tokens N]

``zstd`` is the zstandard package, which Dynamo encodes with, into fresh bytes. ``numpy`` is what a trainer would write:
zstandard, then a view of each tensor, the routers stacked and widened. All take the same bytes in one interleaved run,
and the arrays are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

import dynamo_tito as tito

from .measure import Table, interleave, milliseconds, ratio

ROUTERS, TOP_K, EXPERTS = 48, 8, 128
PRELUDE = 26
_ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=65_536)
    print(measure(parser.parse_args().tokens).markdown())


def measure(tokens: int) -> Table:
    """The table of one run."""
    data = artifact(tokens)
    frame = data[PRELUDE:]
    ours, by_hand = tito.decode_artifact(data), by_numpy(data)
    assert ours.routed_experts is not None
    np.testing.assert_array_equal(ours.routed_experts.array, by_hand[1])
    np.testing.assert_array_equal(ours.token_ids, by_hand[0])
    decompressor = zstandard.ZstdDecompressor()
    calls = {
        "zstd": lambda: decompressor.decompress(frame),
        "decode_artifact": lambda: tito.decode_artifact(data),
        'decode_artifact, experts="native"': lambda: tito.decode_artifact(data, experts="native"),
        'decode_artifact, experts="skip"': lambda: tito.decode_artifact(data, experts="skip"),
        "zstd and numpy": lambda: by_numpy(data),
    }
    times = interleave(calls, _ROUNDS)
    rows = [
        [name, milliseconds(statistics.median(times[name])), f"{ratio(times[name], times['zstd']):.2f}"]
        for name in calls
    ]
    size = f"{len(data) / 1e6:.1f} MB, {len(decompressor.decompress(frame)) / 1e6:.1f} MB once decompressed"
    return Table("A generation artifact", ["call", "ms", "of zstd"], rows, f"{tokens:,} tokens; {size}.")


def by_numpy(data: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids of the completion and routes [rows, routers, experts], widened."""
    size = int.from_bytes(data[14:18], "little")
    body = zstandard.ZstdDecompressor().decompress(data[PRELUDE:])
    (choice,) = msgspec.msgpack.decode(body[:size])["choices"]
    tensors = memoryview(body)[-(-size // 64) * 64 :]

    def array(tensor: dict[str, Any], dtype: str) -> NDArray[Any]:
        part = tensors[tensor["offset"] :][: tensor["byte_count"]]
        return np.frombuffer(part, dtype).reshape(tensor["shape"])

    routers = choice["components"][0]["routers"]
    routes = np.stack([array(router["expert_ids"], "u1") for router in routers], axis=1, dtype=np.int32, casting="safe")
    ids = array(choice["sequence_token_ids"], "<i8").astype(np.int32)
    return ids[choice["prompt_token_count"] :], routes


def artifact(tokens: int) -> bytes:
    """Half a prompt, half a completion; each token goes to different experts, some of which are liked better."""
    random = np.random.default_rng(0)
    prompt, rows = tokens // 2, tokens - 1
    liked = random.normal(0, 0.7, (ROUTERS, EXPERTS)).astype(np.float32)
    noise = random.gumbel(size=(rows, EXPERTS)).astype(np.float32)
    tensors = [random.integers(0, 150_000, tokens).astype("<i8")]
    for router in range(ROUTERS):
        scores = np.roll(noise, router * 7, axis=0) + liked[router]
        tensors.append(np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K].astype("u1"))
    tensors.append(-random.exponential(size=tokens - prompt).astype("<f4"))
    entries, offset = [], 0
    for tensor, dtype in zip(tensors, ["i64", *["u8"] * ROUTERS, "fp32"], strict=True):
        shape = list(tensor.shape)
        entries.append({"byte_count": tensor.nbytes, "dtype": dtype, "offset": offset, "shape": shape})
        offset += tensor.nbytes
    ids, *routes, logprobs = entries
    routers = [
        {"expert_count": EXPERTS, "expert_ids": entry, "router_id": router} for router, entry in enumerate(routes)
    ]
    components = [
        {"kind": "moe_routes", "routers": routers, "token_start": 0},
        {"kind": "selected_logprobs", "logprobs": logprobs, "token_start": prompt},
    ]
    choice = {
        "choice_index": 0,
        "components": components,
        "prompt_token_count": prompt,
        "sequence_token_ids": ids,
    }
    manifest = msgspec.msgpack.encode({"choices": [choice]}, order="deterministic")
    body = manifest + bytes(-len(manifest) % 64) + b"".join(tensor.tobytes() for tensor in tensors)
    prelude = (
        b"DYNEXP1\0" + bytes([1, 0, 0, 0, 1, 0]) + len(manifest).to_bytes(4, "little") + offset.to_bytes(8, "little")
    )
    compressed: bytes = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(body)
    return prelude + compressed


if __name__ == "__main__":
    main()
