"""Writes ``tests/data/made``: bodies in dialects without a recording.

    PYTHONPATH=tests python tests/data/make.py

Same seed, same bytes: running it again changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from support.made import BODIES

HERE = Path(__file__).parent


def main() -> None:
    """Write every body."""
    folder = HERE / "made"
    folder.mkdir(exist_ok=True)
    for made in BODIES:
        (folder / made.name).write_bytes(made.write())
        print(f"{made.name:36s} {made.path.stat().st_size:7,d} bytes")


if __name__ == "__main__":
    main()
