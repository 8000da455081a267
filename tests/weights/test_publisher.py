"""Weights on a shared file system: a version is whole or not visible, and is kept while a process loads it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dynamo_tito.weights import WeightPublisher

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).with_name("publishing.py")


def put(publisher: WeightPublisher, *steps: int) -> None:
    for step in steps:
        with publisher.publish(step) as directory:
            (directory / "w.bin").write_bytes(b"x" * 10)


def fail(publisher: WeightPublisher) -> None:
    with publisher.publish(1) as directory:
        (directory / "w.bin").write_bytes(b"x")
        raise KeyError


def link(publisher: WeightPublisher) -> None:
    with publisher.publish(2) as directory:
        (directory / "w.bin").symlink_to("/etc/hostname")


def run(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], check=False, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_kill_at_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("kill", tmp_path)
    # At every line of the publisher; in the later ones the version was out already.
    assert result["killed"] > 80
    assert 0 < result["readable"] < result["killed"]
    assert result["removed"] > 0
    with capsys.disabled():
        sys.stdout.write(f"\npublisher: {result}\n")


def test_1000_publishes_and_4_readers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("race", tmp_path / "weights", 1_000)
    assert result["failed"] == 0
    assert result["left"] == [997, 998, 999]
    assert result["directories"] == 3
    with capsys.disabled():
        sys.stdout.write(f"\npublisher: {result}\n")


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path / "w", keep_recent=1)
    with publisher.publish(4) as directory:
        (directory / "w.bin").write_bytes(b"x")
        with pytest.raises(TimeoutError, match="no STABLE after 0 s"):
            publisher.resolve(4)
        assert publisher.published() == []
    assert publisher.resolve(4) == directory == tmp_path / "w" / "step_4"
    assert json.loads((directory / "STABLE").read_text()) == {"files": {"w.bin": 1}}
    with pytest.raises(FileExistsError), publisher.publish(4):
        raise AssertionError


def test_a_block_that_raises_leaves_nothing(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=1)
    with pytest.raises(KeyError):
        fail(publisher)
    assert [*tmp_path.iterdir()] == []


def test_a_link_is_refused(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=1)
    with publisher.publish(1) as directory:
        (directory / "w.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="is a link"):
        link(publisher)
    assert publisher.published() == [1]


def test_retention(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=2, max_off_policy_steps=2)
    put(publisher, 1, 2, 3)
    assert publisher.published() == [2, 3]
    publisher.observe(["step_2", "3", None, "default"])
    put(publisher, 4, 5)
    assert publisher.published() == [2, 3, 4, 5]
    publisher.observe(["step_4", "step_5"])
    (tmp_path / "step_3" / "STABLE").unlink()  # what a publisher that was killed leaves
    (tmp_path / "other").mkdir()
    assert publisher.clean() == [2, 3]
    publisher.observe([None])
    put(publisher, 10)
    assert publisher.published() == [5, 10]
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize(("keep", "steps"), [(0, None), (2, 3), (-1, 0)])
def test_too_few_kept(tmp_path: Path, keep: int, steps: int | None) -> None:
    with pytest.raises(ValueError, match="keep_recent must be at least"):
        WeightPublisher(tmp_path, keep_recent=keep, max_off_policy_steps=steps)


@pytest.mark.parametrize("step", [-1, True, "3"])
def test_a_step_is_a_number(tmp_path: Path, step: Any) -> None:
    with pytest.raises(ValueError, match="step must be an integer"):
        WeightPublisher(tmp_path, keep_recent=1).path(step)


def test_a_reader_waits_for_late_attributes(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=1)
    put(publisher, 1)
    file = tmp_path / "step_1" / "w.bin"
    for late in (lambda: file.write_bytes(b"x"), file.unlink):
        late()
        with pytest.raises(TimeoutError, match=r"1 of 10 bytes|not visible yet"):
            publisher.resolve(1)
    timer = threading.Timer(0.1, lambda: file.write_bytes(b"x" * 10))
    timer.start()
    assert publisher.resolve(1, 30.0, poll=0.01) == file.parent
    timer.join()
    for half in (b"{", b"[]", b'{"files":3}'):
        (file.parent / "STABLE").write_bytes(half)
        with pytest.raises(TimeoutError, match="cannot be read yet"):
            publisher.resolve(1)
    (file.parent / "STABLE").write_bytes(b"")
    with pytest.raises(TimeoutError, match=r"STABLE is empty, and .* no safetensors"):
        publisher.resolve(1)


def test_a_stale_handle_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=1)
    put(publisher, 1)

    def stale(_: object) -> list[str]:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("os.listdir", stale)
        with pytest.raises(TimeoutError):
            publisher.resolve(1)
    publisher.resolve(1)


def test_nccl_ready(tmp_path: Path) -> None:
    publisher = WeightPublisher(tmp_path, keep_recent=1)
    with pytest.raises(TimeoutError, match="no NCCL_READY"):
        publisher.wait_nccl_ready(3, 0.0)
    with publisher.publish(3):
        pass
    threading.Timer(0.05, lambda: publisher.mark_nccl_ready(3)).start()
    publisher.wait_nccl_ready(3, 30.0, poll=0.01)
    assert publisher.resolve(3).name == "step_3"
