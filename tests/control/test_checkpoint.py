"""A checkpoint is checked on disk before any worker is paused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Fleet
from dynamo_tito.weights.checkpoint import BadCheckpointError, Checkpoint, compare_names, read_checkpoint

from .checkpoints import TENSORS, write_checkpoint, write_shard
from .pool import LIMITS


def test_a_whole_checkpoint_is_read(tmp_path: Path) -> None:
    found = read_checkpoint(str(write_checkpoint(tmp_path / "whole")))
    assert (found.tensors, found.layers, found.note) == (frozenset(TENSORS), 4, None)
    (tmp_path / "whole" / "model.safetensors.index.json").unlink()
    assert read_checkpoint(str(tmp_path / "whole")).tensors == frozenset(TENSORS)


def edit_index(directory: Path, change: Callable[[dict[str, object]], object]) -> None:
    index = directory / "model.safetensors.index.json"
    document = json.loads(index.read_bytes())
    change(document)
    index.write_text(json.dumps(document))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


A, B, INDEX = "a.safetensors", "b.safetensors", "model.safetensors.index.json"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard gone": (lambda d: (d / B).unlink(), "1 of 2 shards of its index are missing, first b.saf"),
    "cut by a byte": (lambda d: cut(d / B, (d / B).stat().st_size - 1), "b.safetensors has"),
    "cut in the header": (lambda d: cut(d / B, 40), "cut short"),
    "cut in the length": (lambda d: cut(d / B, 5), "has 5 bytes"),
    "empty": (lambda d: cut(d / B, 0), "has 0 bytes"),
    "a byte more": (lambda d: (d / A).write_bytes((d / A).read_bytes() + b"x"), "describes"),
    "header of 2^60 bytes": (lambda d: (d / A).write_bytes((1 << 60).to_bytes(8, "little")), "header takes"),
    "header no JSON": (lambda d: (d / A).write_bytes((3).to_bytes(8, "little") + b"{{{"), "no JSON object"),
    "tensor gone": (lambda d: write_shard(d / B, TENSORS[5:]), "1 of 8 tensors of its index are not in"),
    "overlap": (lambda d: write_shard(d / B, TENSORS[4:], data_offsets=[0, 24]), "ends at"),
    "shape": (lambda d: write_shard(d / B, TENSORS[4:], shape=[2, 4]), "its shape and dtype take 32"),
    "offsets": (lambda d: write_shard(d / B, TENSORS[4:], data_offsets=[-1, 2]), "offsets or a shape"),
    "no offsets": (lambda d: write_shard(d / B, TENSORS[4:], data_offsets=7), "without dtype, shape"),
    "index no JSON": (lambda d: (d / INDEX).write_text("["), "no JSON object with a weight_map"),
    "index empty": (lambda d: edit_index(d, lambda i: i.update(weight_map={})), "does not name one file"),
    "index elsewhere": (lambda d: edit_index(d, lambda i: i.update(weight_map={"x": "../x"})), "not in its directory"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_not_load_is_named(fault: str, tmp_path: Path) -> None:
    spoil, said = FAULTS[fault]
    directory = write_checkpoint(tmp_path / "step")
    spoil(directory)
    with pytest.raises(BadCheckpointError, match=said) as caught:
        read_checkpoint(str(directory))
    assert "no worker was touched" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_formats_and_adapters(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpointError, match=r"has no weights.*check_files=False"):
        read_checkpoint(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadCheckpointError, match=r"adapter.*load_lora"):
        read_checkpoint(str(tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "were not checked" in str(read_checkpoint(str(tmp_path)).note)
    with pytest.raises(BadCheckpointError, match=r"does not exist.*check_files=False"):
        read_checkpoint(str(tmp_path / "none"))
    with pytest.raises(BadCheckpointError, match="no directory"):
        read_checkpoint(str(tmp_path / "pytorch_model.bin"))


def test_a_part_of_the_model_is_no_checkpoint_of_it() -> None:
    optional = ["lm_head.weight", "visual.blocks.0.w.weight", "model.layers.4.mtp.weight"]
    names = [*TENSORS, "model.embed_tokens.weight", *optional]
    known = Checkpoint("/base", frozenset(names), 4)
    for missing in ([*TENSORS[1::2]], ["model.layers.3.up.weight", "model.layers.3.down.weight"]):
        with pytest.raises(BadCheckpointError, match=rf"lacks {len(missing)} of the {len(names)} tensors of /base"):
            compare_names(Checkpoint("/new", frozenset({*names} - {*missing})), known)
    compare_names(Checkpoint("/tied, without a tower", frozenset({*names} - {*optional})), known)
    compare_names(Checkpoint("/renamed", frozenset({"fused.weight", *TENSORS[::2]})), known)
    compare_names(known, known)


def posts(engine: simulator.Engine) -> list[str]:
    return [call.path for call in engine.calls if call.method == "POST"]


def test_a_bad_checkpoint_touches_no_worker(tmp_path: Path) -> None:
    async def main() -> None:
        truncated = write_checkpoint(tmp_path / "truncated")
        cut(truncated / "b.safetensors", 100)
        half = write_checkpoint(tmp_path / "half", {"a.safetensors": TENSORS[::2]})
        base = write_checkpoint(tmp_path / "base")
        async with (
            simulator.serve(backend="vllm", model=str(base)) as one,
            simulator.serve(backend="vllm", model=str(base)) as two,
            await Fleet.connect([one.url, two.url], backend="vllm", limits=LIMITS, trust_env=False) as fleet,
        ):
            for path, said in (
                (tmp_path / "none", "does not exist"),
                (Path("/nowhere/at/all"), "does not exist"),  # the workers' own directory is seen, so this would be
                (truncated, "b.safetensors"),
                (half, "lacks 4 of the 8 tensors"),
            ):
                with pytest.raises(tito.AdminError, match=said) as caught:
                    await fleet.update_weights(path)
                assert "no worker was touched" in str(caught.value)
                assert posts(one) == posts(two) == []
            await fleet.update_weights(half, check_files=False)
            result = await fleet.update_weights(write_checkpoint(tmp_path / "step_2"))
            assert result.notes == ()
            assert [worker.verified_by for worker in result.workers] == ["canary"] * 2

    asyncio.run(main())


def test_files_that_are_not_visible_are_reported_as_unchecked() -> None:
    async def main() -> None:
        async with (
            simulator.serve(backend="vllm") as engine,
            await Fleet.connect(engine.url, backend="vllm", limits=LIMITS, trust_env=False) as fleet,
        ):
            result = await fleet.update_weights("/far/away/step_1")
            assert result.notes == ("the checkpoint was not checked: /far/away/step_1 is not visible on this machine",)
            with pytest.raises(BadCheckpointError, match="check_files=False"):
                await fleet.update_weights("/far/away/step_2", check_files=True)
            assert (await fleet.update_weights("/far/away/step_2", check_files=False)).notes == ()

    asyncio.run(main())
