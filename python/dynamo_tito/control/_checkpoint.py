"""A checkpoint, checked on disk before any worker is paused: what is missing or cut short is found here."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamo_tito._errors import AdminError, TitoError

if TYPE_CHECKING:
    from .admin.base import AdminApi

MAX_HEADER = 100 << 20
"""Bytes of a safetensors header that are read; the format's own library has the same limit."""

_INDEX = "model.safetensors.index.json"
_MAX_INDEX = 256 << 20
_UNCHECKED = ("*.bin", "*.pt", "*.pth", "*.gguf")
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class BadCheckpointError(AdminError):
    """A checkpoint that would not load; no worker was touched."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was found in a directory.

    Attributes:
        path: the directory.
        tensors: names of the tensors in its safetensors shards; empty if it has none.
        layers: how many layers its configuration names; None if it names none.
        note: what could not be checked; None if everything was.
    """

    path: str
    tensors: frozenset[str] = frozenset()
    layers: int | None = None
    note: str | None = None


def read_checkpoint(path: str) -> Checkpoint:
    """Check a directory of weights; the headers are read, the tensors are not.

    The directory exists and has shards; each shard that ``model.safetensors.index.json`` names is there and holds the
    tensors that the index gives it; each header is whole JSON; each tensor's bytes lie in the file, one after the
    other, as many as its shape and dtype take, to the last byte of the file.

    Raises:
        BadCheckpointError: it would not load. Names the file and what is wrong with it.
    """
    directory = Path(path)
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise BadCheckpointError(
            f"the checkpoint {path} {what} on this machine; no worker was touched: correct the path, or give "
            "check_files=False if the workers see other files than this process"
        )
    try:
        return _read(directory)
    except OSError as error:
        raise _bad(directory, f"cannot be read: {error}") from None


def _read(directory: Path) -> Checkpoint:
    shards = {shard.name for shard in directory.glob("*.safetensors")}
    index = directory / _INDEX
    if index.exists():
        placed = _weight_map(index)
        missing = sorted({*placed.values()} - shards)
        if missing:
            raise _bad(directory, f"{len(missing)} of {len({*placed.values()})} shards of its index are missing, "
                                  f"first {missing[0]}")  # fmt: skip
        held = {name: _tensors(directory / name) for name in sorted({*placed.values()})}
        lost = sorted(tensor for tensor, shard in placed.items() if tensor not in held[shard])
        if lost:
            raise _bad(directory, f"{len(lost)} of {len(placed)} tensors of its index are not in their shards, "
                                  f"first {lost[0]} in {placed[lost[0]]}")  # fmt: skip
        return Checkpoint(str(directory), frozenset().union(*held.values()), _layers(directory))
    if shards:
        tensors = frozenset().union(*(_tensors(directory / name) for name in sorted(shards)))
        return Checkpoint(str(directory), tensors, _layers(directory))
    if (directory / "adapter_config.json").exists():
        raise _bad(directory, "holds an adapter, not a model: load it with load_lora")
    if any(next(directory.glob(pattern), None) for pattern in _UNCHECKED):
        return Checkpoint(str(directory), note=f"{directory} has no safetensors: its files were not checked")
    raise _bad(directory, "has no weights: neither *.safetensors nor *.bin, *.pt, *.pth, *.gguf")


def _weight_map(index: Path) -> Mapping[str, str]:
    """Tensor to file name."""
    if index.stat().st_size > _MAX_INDEX:
        raise _bad(index, f"has {index.stat().st_size} bytes, at most {_MAX_INDEX} are read")
    try:
        placed = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _bad(index, "is no JSON object with a weight_map") from None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise _bad(index, "has a weight_map that does not name one file for each tensor")
    if outside := next((name for name in placed.values() if Path(name).name != name), None):
        raise _bad(index, f"names the file {outside!r}, which is not in its directory")
    return placed


def _tensors(shard: Path) -> frozenset[str]:
    """The names in a shard, whose header is checked against the file's size."""
    with shard.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise _bad(shard, f"has {size} bytes: the length of the header takes 8")
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER or 8 + length > size:
            raise _bad(shard, f"is cut short or no safetensors file: its header takes {length} bytes, it has {size}")
        content = file.read(length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _bad(shard, "has a header that is no JSON object")
    header.pop("__metadata__", None)
    end = 0
    spans = sorted((_span(shard, name, entry), name) for name, entry in header.items())
    for (begin, stop), name in spans:
        if begin != end:
            raise _bad(shard, f"has {name} at byte {begin} of its data, the tensor before it ends at {end}")
        end = stop
    if 8 + length + end != size:
        raise _bad(shard, f"has {size} bytes, its header describes {8 + length + end}")
    return frozenset(header)


def _span(shard: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor begins and ends in the data."""
    try:
        begin, stop = entry["data_offsets"]
        shape, dtype = entry["shape"], entry["dtype"]
        numbers = [begin, stop, *shape]
    except (TypeError, KeyError, ValueError):
        raise _bad(shard, f"has a header without dtype, shape and data_offsets of {name}") from None
    if not all(type(number) is int and number >= 0 for number in numbers) or stop < begin:
        raise _bad(shard, f"has offsets or a shape of {name} that are none: {str(entry)[:100]}")
    bits = _BITS.get(dtype)
    if bits is not None and (stop - begin) * 8 != math.prod(shape) * bits:
        raise _bad(
            shard, f"has {stop - begin} bytes for {name}, its shape and dtype take {math.prod(shape) * bits / 8:g}"
        )
    return begin, stop


def compare_names(new: Checkpoint, known: Checkpoint) -> None:
    """Refuse a checkpoint that lacks tensors which the model's own has, and has no other ones instead.

    Names that differ otherwise say nothing: a trainer may fuse or rename them. A part that is absent as a whole (a
    vision tower, the layers of multi-token prediction, an ``lm_head`` that is tied) may be left out on purpose.

    Raises:
        BadCheckpointError: it is a part of ``known``.
    """
    if not new.tensors or not new.tensors < known.tensors:
        return
    parts = {_part(name)[0] for name in new.tensors}
    missing = []
    for name in sorted(known.tensors - new.tensors):
        part, number = _part(name)
        if part in parts and (number is None or known.layers is None or number < known.layers):
            missing.append(name)
    if missing:
        raise BadCheckpointError(
            f"the checkpoint {new.path} lacks {len(missing)} of the {len(known.tensors)} tensors of {known.path}, "
            f"first {missing[0]}; no worker was touched: write it whole, or give check_files=False if a part is meant"
        )


def _part(name: str) -> tuple[str, int | None]:
    """The part of a model that a tensor belongs to, and the number of its layer, if it is in one."""
    words = name.split(".")
    place = next((place for place, word in enumerate(words) if word.isdecimal()), None)
    return (".".join(words[:-2]), None) if place is None else (".".join(words[:place]), int(words[place]))


def _layers(directory: Path) -> int | None:
    """``num_hidden_layers`` of ``config.json``; None if it does not say."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
        text = config.get("text_config") or config
        number = text.get("num_hidden_layers")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return number if type(number) is int else None


def visible(path: str) -> bool:
    """Whether this machine has the path, or the directory that it would be in."""
    place = Path(path)
    return place.exists() or (place.parent != Path(place.anchor) and place.parent.is_dir())


def is_directory(path: str) -> bool:
    """Whether this machine has such a directory."""
    return Path(path).is_dir()


async def check_against_root(path: str, found: Checkpoint | None, admins: Sequence[AdminApi]) -> list[str]:
    """Check a checkpoint with the help of the directory that a worker was started from, if this machine has it.

    Args:
        path: the checkpoint.
        found: what was read of it; None if neither it nor the directory around it is visible.
        admins: the workers.

    Returns:
        What could not be checked, in words.

    Raises:
        BadCheckpointError: it is not there, though the workers' own directory is, or it lacks tensors that the workers'
            own has.
    """
    roots = await asyncio.gather(*(_root(admin) for admin in admins))
    root = next((each for each in roots if each is not None and each.startswith("/") and is_directory(each)), None)
    if found is None:
        if root is None:
            return [f"the checkpoint was not checked: {path} is not visible on this machine"]
        found = await asyncio.to_thread(read_checkpoint, path)
    if root is not None and found.tensors:
        try:
            known = await asyncio.to_thread(read_checkpoint, root)
        except BadCheckpointError:
            return []
        compare_names(found, known)
    return [] if found.note is None else [found.note]


async def _root(admin: AdminApi) -> str | None:
    try:
        return await admin.model_root()
    except TitoError:
        return None


def _bad(where: Path, what: str) -> BadCheckpointError:
    return BadCheckpointError(
        f"the checkpoint file {where} {what}; no worker was touched: write it again, or give check_files=False"
    )
