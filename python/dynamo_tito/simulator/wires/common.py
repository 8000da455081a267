"""What several wires write: alternatives of a token, and the log-probabilities of a prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamo_tito.simulator.encode import Raw, array_of
from dynamo_tito.simulator.model import Model, Scores

__all__ = ["Entry", "Numbers", "entries", "prompt_entries", "prompt_maps"]

Numbers: TypeAlias = Callable[[NDArray[np.float64]], list[str]]
"""How a server writes log-probabilities."""

Entry: TypeAlias = tuple[int, str, int]
"""(token, log-probability as text, rank)."""


def entries(model: Model, scores: Scores, k: int, numbers: Numbers) -> list[list[Entry]]:
    """Per position: the given token first, then the rest of the best k in the order of rank."""
    given = list(zip(scores.token_ids.tolist(), numbers(scores.logprobs), scores.ranks.tolist(), strict=True))
    if k == 0:
        return [[entry] for entry in given]
    ids, logprobs, ranks, counts = model.alternatives(scores, k)
    flat = list(zip(ids.ravel().tolist(), numbers(logprobs), ranks.ravel().tolist(), strict=True))
    return [
        [entry, *flat[at * k : at * k + count]]
        for at, (entry, count) in enumerate(zip(given, counts.tolist(), strict=True))
    ]


def prompt_entries(
    model: Model, prompt: NDArray[np.int64], version: str, k: int, numbers: Numbers
) -> list[list[Entry]]:
    """`entries` of the prompt's own tokens; the first position, which nothing scores, is empty."""
    rows = entries(model, model.score(prompt, version=version), k, numbers)
    return [[], *rows[1:]]


def prompt_maps(
    rows: Sequence[Sequence[Entry]], write: Callable[[int, Entry], str], *, shuffle: random.Random | None
) -> Raw:
    """`[null, {"<id>": entry, ...}, ...]`; `write` gets an entry and its place in the row.

    Shuffled: the keys come in no stable order.
    """
    maps: list[str] = []
    for number, row in enumerate(rows):
        if number == 0:
            maps.append("null")
            continue
        items = [f'"{entry[0]}":{write(place, entry)}' for place, entry in enumerate(row)]
        if shuffle is not None:
            shuffle.shuffle(items)
        maps.append("{" + ",".join(items) + "}")
    return array_of(maps)
