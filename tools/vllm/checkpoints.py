"""What becomes of checkpoints: damaged copies of a model, and LoRA adapters for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
METADATA = {"format": "pt"}
ADAPTED = ("q_proj", "v_proj")


def without_odd_layers(source: Path, directory: Path) -> None:
    """A copy whose weights lack every other layer. Each file is whole; only the tensors are too few."""
    shutil.copytree(source, directory)
    tensors = load_file(source / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if _layer(name) is None or _layer(name) % 2 == 0}
    save_file(kept, directory / WEIGHTS, metadata=METADATA)


def cut_short(source: Path, directory: Path) -> None:
    """A copy in two shards with an index, as large models come; the second lacks its last third."""
    shutil.copytree(source, directory)
    (directory / WEIGHTS).unlink()
    tensors = load_file(source / WEIGHTS)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, directory / shard, metadata=METADATA)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: shard for shard, members in shards.items() for name in members},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    last = directory / "model-00002-of-00002.safetensors"
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size * 2 // 3)


def lora_adapter(model: Path, directory: Path, *, seed: int, rank: int = 4) -> None:
    """An adapter in PEFT's format, with weights that change every distribution."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(model / WEIGHTS).items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in ADAPTED:
            rows, columns = weight.shape
            prefix = f"base_model.model.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.2
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.2
    save_file(tensors, directory / "adapter_model.safetensors", metadata=METADATA)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ADAPTED),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=1))


def _layer(name: str) -> int | None:
    """The number in `model.layers.N.…`; None outside the layers."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else None
