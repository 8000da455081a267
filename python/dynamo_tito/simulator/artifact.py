"""Generation artifacts, `generation_artifact_v1`, from the description of the format: prelude, manifest, tensors.

Facts: `dynamo/artifacts/vllm/format.py` of ai-dynamo 1.7. The frame holds its blocks as they are: zstd is not among the
dependencies.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["artifact", "opened", "wrapped"]

_DTYPES = {"uint8": "u8", "uint16": "u16", "int64": "i64", "float32": "fp32"}
# magic, version 1.0, zstd, bytes of the manifest, bytes of the tensors
_PRELUDE = struct.Struct("<8sHHHIQ")
_MAGIC, _ZSTD, _ALIGNMENT = b"DYNEXP1\0", 1, 64
# A frame of one segment whose size has eight bytes, and the largest block.
_FRAME, _BLOCK = struct.Struct("<4sBQ"), 1 << 17


def artifact(
    prompt: NDArray[np.int64],
    completion: NDArray[np.int64],
    *,
    routes: NDArray[np.generic] | None = None,
    experts: int = 0,
    logprobs: NDArray[np.float64] | None = None,
    candidates: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
) -> bytes:
    """The artifact of one choice.

    Args:
        prompt: ids [P].
        completion: ids [C].
        routes: expert ids [rows, layers, top_k] from position 0 on; each layer is a router.
        experts: of each router.
        logprobs: [C], of the sampled tokens.
        candidates: ids and log-probabilities [C, k], best first.
    """
    tensors: list[bytes] = []

    def entry(array: NDArray[Any]) -> dict[str, Any]:
        offset = sum(map(len, tensors))
        tensors.append(array.tobytes())
        dtype = _DTYPES[array.dtype.name]
        return {"byte_count": array.nbytes, "dtype": dtype, "offset": offset, "shape": list(array.shape)}

    sequence = entry(np.concatenate([prompt, completion]).astype("<i8"))
    components: list[dict[str, Any]] = []
    if routes is not None:
        narrow = routes.astype("<u1" if experts <= 256 else "<u2")
        routers = [
            {"expert_count": experts, "expert_ids": entry(narrow[:, layer]), "router_id": layer}
            for layer in range(narrow.shape[1])
        ]
        components.append({"kind": "moe_routes", "routers": routers, "token_start": 0})
    if logprobs is not None:
        scores = {"kind": "selected_logprobs", "logprobs": entry(logprobs.astype("<f4")), "token_start": len(prompt)}
        components.append(scores)
    if candidates is not None:
        ids, values = entry(candidates[0].astype("<i8")), entry(candidates[1].astype("<f4"))
        scores = {"candidate_token_ids": ids, "kind": "topk_logprobs", "logprobs": values, "token_start": len(prompt)}
        components.append(scores)
    choice = {
        "choice_index": 0, "components": components, "prompt_token_count": len(prompt), "sequence_token_ids": sequence,
    }  # fmt: skip
    return wrapped(_packed({"choices": [choice]}), b"".join(tensors))


def wrapped(manifest: bytes, tensors: bytes) -> bytes:
    """Manifest and tensors behind a prelude, in a frame."""
    content = manifest + bytes(-len(manifest) % _ALIGNMENT) + tensors
    blocks = [content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK)]
    heads = [(len(block) << 3 | (at == len(blocks) - 1)).to_bytes(3, "little") for at, block in enumerate(blocks)]
    frame = _FRAME.pack(b"\x28\xb5\x2f\xfd", 0xE0, len(content))
    frame += b"".join(head + block for head, block in zip(heads, blocks, strict=True))
    return _PRELUDE.pack(_MAGIC, 1, 0, _ZSTD, len(manifest), len(tensors)) + frame


def opened(data: bytes) -> tuple[bytes, bytes]:
    """Manifest and tensors of what `wrapped` has written."""
    *_, manifest, tensors = _PRELUDE.unpack_from(data)
    content, at = b"", _PRELUDE.size + _FRAME.size
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "little") >> 3
        content += data[at + 3 : at + 3 + size]
        at += 3 + size
    return content[:manifest], content[len(content) - tensors :]


def _packed(value: Any) -> bytes:
    """MessagePack in its shortest forms, keys sorted: of what a manifest holds."""
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    if isinstance(value, int):
        for limit, head, size in ((1 << 7, b"", 1), (1 << 8, b"\xcc", 1), (1 << 16, b"\xcd", 2), (1 << 32, b"\xce", 4)):
            if value < limit:
                return head + value.to_bytes(size, "big")
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, Mapping):
        items = b"".join(_packed(key) + _packed(value[key]) for key in sorted(value))
        return bytes([0x80 | len(value)]) + items
    head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
    return head + b"".join(map(_packed, value))
