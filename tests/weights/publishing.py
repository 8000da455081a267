"""Publishers that are killed, and readers that race them. A script, because it forks: `publishing.py kill|race DIR`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from dynamo_tito.weights import WeightPublisher
from dynamo_tito.weights import publisher as source

READERS = 4
KEEP = 3
FILES = {"model-1.bin": 3_000, "model-2.bin": 70_000, "config.json": 20, "shard/a.bin": 1, "shard/empty": 0}


def content(step: int, name: str) -> bytes:
    return (f"{step}:{name};".encode() * FILES[name])[: FILES[name]]


def write(step: int, directory: Path) -> None:
    (directory / "shard").mkdir()
    for name in FILES:
        (directory / name).write_bytes(content(step, name))


def check(step: int, directory: Path) -> None:
    for name in FILES:
        if (directory / name).read_bytes() != content(step, name):
            raise AssertionError(f"{directory / name} is not whole")


def publish_and_die(publisher: WeightPublisher, step: int, lines: int) -> None:
    """Publish, and be killed after so many lines of the publisher."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != source.__file__:
            return None
        if event == "line":
            count += 1
            if count > lines:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    with publisher.publish(step) as directory:
        sys.settrace(None)
        write(step, directory)
        sys.settrace(trace)
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            frame.f_trace = None
            frame = frame.f_back
    sys.settrace(None)


def is_whole(publisher: WeightPublisher, step: int) -> bool:
    """Whether it is readable; what is readable must be whole."""
    try:
        check(step, publisher.resolve(step))
    except TimeoutError:
        return False
    return True


def kill(root: Path) -> dict[str, int]:
    """A publish that removes an older version, killed after every number of lines that it has."""
    killed = readable = removed = 0
    lines = 0
    while True:
        publisher = WeightPublisher(root / str(lines), keep_recent=1)
        for step in (1, 2):
            with publisher.publish(step) as directory:
                write(step, directory)
        child = os.fork()
        if child == 0:
            publish_and_die(publisher, 3, lines)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        whole = [step for step in (1, 2, 3) if is_whole(publisher, step)]
        readable += 3 in whole
        removed += 3 - len({*whole, 3})
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0 or publisher.published() != [3]:
                raise AssertionError("the publish that was not killed failed")
            return {"killed": killed, "readable": readable, "removed": removed}
        if not publisher.published():
            raise AssertionError("no version is left")
        killed += 1
        # Who comes next starts over.
        if 3 not in publisher.published():
            with publisher.publish(3) as directory:
                write(3, directory)
            check(3, publisher.resolve(3))
        lines += 1


def read_all(root: Path, number: int, count: int) -> None:
    """Read every version in its order, and say which one is being read."""
    publisher = WeightPublisher(root, keep_recent=KEEP)
    position = root.parent / f"reader{number}"
    for step in range(count):
        fresh = position.with_suffix(".new")
        fresh.write_text(f"step_{step}")
        fresh.rename(position)
        check(step, publisher.resolve(step, 60.0, poll=0.001))


def race(root: Path, count: int) -> dict[str, Any]:
    positions = [root.parent / f"reader{number}" for number in range(READERS)]
    for position in positions:
        position.write_text("step_0")
    children = []
    for number in range(READERS):
        child = os.fork()
        if child == 0:
            try:
                read_all(root, number, count)
            except BaseException as error:  # noqa: BLE001 - the parent must know
                os.write(2, f"reader {number}: {error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        children.append(child)
    publisher = WeightPublisher(root, keep_recent=KEEP)
    started, most = time.monotonic(), 0
    for step in range(count):
        with publisher.publish(step) as directory:
            write(step, directory)
        oldest = [position.read_text() for position in positions]
        publisher.observe(oldest)
        published = publisher.published()
        expected = min(step - KEEP + 1, *(int(text.removeprefix("step_")) for text in oldest))
        if published[0] > max(0, expected) or published[-1] != step:
            raise AssertionError(f"{published} after {step}, readers at {oldest}")
        most = max(most, len(published))
    seconds = time.monotonic() - started
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    publisher.observe([f"step_{count - 1}"] * READERS)
    publisher.clean()
    return {
        "failed": len(failed), "left": publisher.published(), "seconds": round(seconds, 1), "most": most,
        "directories": len([*root.iterdir()]),
    }  # fmt: skip


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    sys.stdout.write(json.dumps(kill(where) if what == "kill" else race(where, int(sys.argv[3]))))
