"""Generation artifacts from a plain writer: a canonical manifest, tensors, and a zstd frame of blocks as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {"uint8": "u8", "uint16": "u16", "int32": "i32", "int64": "i64", "float16": "fp16", "float32": "fp32"}
BLOCK = 1 << 17


def packed(value: Any) -> bytes:
    """MessagePack in its shortest forms, keys sorted: of what a manifest holds."""
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    if isinstance(value, int):
        for limit, head, size in ((1 << 7, b"", 1), (1 << 8, b"\xcc", 1), (1 << 16, b"\xcd", 2), (1 << 32, b"\xce", 4)):
            if value < limit:
                return head + value.to_bytes(size, "big")
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, Mapping):
        items = b"".join(packed(key) + packed(value[key]) for key in sorted(value))
        return bytes([0x80 | len(value)]) + items
    head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
    return head + b"".join(map(packed, value))


def artifact(
    prompt: Sequence[int],
    completion: Sequence[int],
    *,
    routes: Sequence[NDArray[Any]] = (),
    experts: int = 256,
    start: int = 0,
    logprobs: NDArray[Any] | None = None,
    top: tuple[NDArray[Any], NDArray[Any]] | None = None,
    compressed: bool = False,
) -> bytes:
    """One choice; ``routes`` has an array [rows, top_k] for each router, whose id is ten times its number."""
    tensors: list[NDArray[Any]] = []

    def entry(array: NDArray[Any]) -> dict[str, Any]:
        offset = sum(tensor.nbytes for tensor in tensors)
        tensors.append(array)
        dtype = DTYPES[array.dtype.name]
        return {"byte_count": array.nbytes, "dtype": dtype, "offset": offset, "shape": list(array.shape)}

    sequence = entry(np.array([*prompt, *completion], np.int64))
    components: list[dict[str, Any]] = []
    if routes:
        routers = [
            {
                "expert_count": experts if array.dtype == np.uint8 else 1 << 16,
                "expert_ids": entry(array),
                "router_id": 10 * at,
            }
            for at, array in enumerate(routes)
        ]
        components.append({"kind": "moe_routes", "routers": routers, "token_start": start})
    if logprobs is not None:
        scores = {"kind": "selected_logprobs", "logprobs": entry(logprobs), "token_start": len(prompt)}
        components.append(scores)
    if top is not None:
        ids, values = entry(top[0]), entry(top[1])
        scores = {"candidate_token_ids": ids, "kind": "topk_logprobs", "logprobs": values, "token_start": len(prompt)}
        components.append(scores)
    choice = {
        "choice_index": 0,
        "components": components,
        "prompt_token_count": len(prompt),
        "sequence_token_ids": sequence,
    }
    return wrapped(packed({"choices": [choice]}), b"".join(map(np.ndarray.tobytes, tensors)), compressed=compressed)


def wrapped(manifest: bytes, tensors: bytes, *, compressed: bool = False) -> bytes:
    """A prelude that tells the truth, and what it speaks of."""
    body = manifest + bytes(-len(manifest) % 64) + tensors
    return prelude(len(manifest), len(tensors), compressed=compressed) + (frame(body) if compressed else body)


def prelude(manifest: int, tensors: int, *, compressed: bool) -> bytes:
    codec = int(compressed).to_bytes(2, "little")
    return b"DYNEXP1\0\1\0\0\0" + codec + manifest.to_bytes(4, "little") + tensors.to_bytes(8, "little")


def frame(content: bytes) -> bytes:
    """A zstd frame that compresses nothing."""
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    heads = [len(block) << 3 | (at == len(blocks) - 1) for at, block in enumerate(blocks)]
    pairs = zip(heads, blocks, strict=True)
    return _frame_head(len(content)) + b"".join(head.to_bytes(3, "little") + block for head, block in pairs)


def bomb(size: int) -> bytes:
    """A zstd frame of ``size`` zeros in four bytes for each 128 KiB."""
    count = size // BLOCK
    blocks = [(BLOCK << 3 | 2 | (at == count - 1)).to_bytes(3, "little") + b"\0" for at in range(count)]
    return _frame_head(size) + b"".join(blocks)


def _frame_head(size: int) -> bytes:
    # A size of eight bytes, and no window beside it.
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little")
