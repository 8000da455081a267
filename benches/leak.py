"""What decoding leaves behind: ``python -m benches.leak [decodes]``.

Every dialect of every wire, success and error in turn, a few kilobytes mostly and megabytes now and then. Exits with 1
when resident memory grows by more than 4 MiB after the first tenth.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import dynamo_tito as tito
from support.bodies import DIALECTS, Dialect, Sample
from support.samples import invent
from support.truth import check
from support.writing import compact

ALLOWED: Final = 4 << 20
"""Bytes by which resident memory may grow."""

PARTS: Final = 10
"""How often it is looked at; the first time ends the warm-up."""

LARGE_EVERY: Final = 500
"""Decodes between two large ones."""

_ROW: Final[dict[str, Any]] = {"num_layers": 4, "top_k": 2}

Decode = Callable[[], None]


def main() -> int:
    """Decode as often as was asked for."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    sizes = [_decode(part, count // PARTS) for part in _parts()]
    growth = max(sizes) - sizes[0]
    print(f"{count:,} decodes; resident MiB: {' '.join(f'{size / (1 << 20):.1f}' for size in sizes)}")
    print(f"growth {growth / (1 << 20):+.2f} MiB, allowed {ALLOWED / (1 << 20):.0f}")
    return 1 if growth > ALLOWED else 0


def _parts() -> Iterator[Iterator[Decode]]:
    """The same endless order of decodes, over and over."""
    small, large = itertools.cycle(_decodes(large=False)), itertools.cycle(_decodes(large=True))
    order = (next(large) if place % LARGE_EVERY == 0 else next(small) for place in itertools.count(1))
    yield from itertools.repeat(order, PARTS)


def _decode(order: Iterator[Decode], count: int) -> int:
    """Resident memory in bytes after so many of them."""
    for decode in itertools.islice(order, count):
        decode()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def _decodes(*, large: bool) -> list[Decode]:
    """A success and an error in turn, of every dialect; each is proven once."""
    decodes = []
    for seed, dialect in enumerate(DIALECTS.values()):
        sample = _sample(seed, dialect, large=large)
        document = dialect.build([sample], dialect.container)
        body = compact(document)
        options = _ROW | {"wire": dialect.wire, "prompt_token_ids": np.array(sample.prompt, np.int32)}
        check(tito.decode(body, **options), sample, dialect, dialect.container)
        for broken in _broken(body, sample):
            decodes += [_right(body, options), _wrong(broken, options)]
    return decodes


def _sample(seed: int, dialect: Dialect, *, large: bool) -> Sample:
    tokens = 4096 if large else 16
    layers = 4
    return invent(
        seed, prompt=tokens, completion=tokens, layers=layers, top_k=2, top=2, prompt_logprobs=dialect.prompt_logprobs,
        mask=dialect.mask,
    )  # fmt: skip


def _broken(body: bytes, sample: Sample) -> Iterator[bytes]:
    """Refused by the scan, by a typed reader, by a check of counts, as an error of the server, and for the experts."""
    yield body[: len(body) // 2]
    yield body.replace(b"[%d," % sample.tokens[0], b"[true,")
    yield body.replace(b"[%d," % sample.tokens[0], b"[7,%d," % sample.tokens[0])
    yield body.replace(b"{", b'{"error":{"message":"no","code":500},', 1)
    yield body.replace(b"A", b"!")


def _right(body: bytes, options: dict[str, Any]) -> Decode:
    def decode() -> None:
        tito.decode(body, **options)

    return decode


def _wrong(body: bytes, options: dict[str, Any]) -> Decode:
    def decode() -> None:
        try:
            tito.decode(body, **options)
        except tito.TitoError:
            return
        raise AssertionError("a broken body was decoded")

    decode()
    return decode


if __name__ == "__main__":
    sys.exit(main())
