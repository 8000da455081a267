"""Small checkpoints on disk, whole and damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

TENSORS = tuple(f"model.layers.{layer}.{name}.weight" for layer in range(4) for name in ("up", "down"))


def write_shard(path: Path, names: Sequence[str], **changed: object) -> None:
    """A shard of 2x3 float32 tensors; ``changed`` replaces members of the last tensor's entry."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for number, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [24 * number, 24 * number + 24]}
    if changed:
        header[names[-1]] |= changed  # type: ignore[operator]
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(24 * len(names)))


def write_checkpoint(directory: Path, shards: Mapping[str, Sequence[str]] | None = None, *, layers: int = 4) -> Path:
    """Two shards and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = shards or {"a.safetensors": TENSORS[:4], "b.safetensors": TENSORS[4:]}
    for name, tensors in shards.items():
        write_shard(directory / name, tensors)
    placed = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (directory / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    return directory
