"""What several wires read and write: integers, alternatives of a token, log-probabilities of a prompt, speculation."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamo_tito.simulator.calls import EngineError
from dynamo_tito.simulator.encode import Raw, array_of
from dynamo_tito.simulator.model import Model, Sample, Scores

__all__ = ["Entry", "Numbers", "entries", "integer", "integers", "prompt_entries", "prompt_maps", "speculation"]

Numbers: TypeAlias = Callable[[NDArray[np.float64]], list[str]]
"""How a server writes log-probabilities."""

Entry: TypeAlias = tuple[int, str, int]
"""(token, log-probability as text, rank)."""


def integer(values: dict[str, Any], name: str, default: Any = None, *, low: int = 0) -> Any:
    """An optional integer of a request.

    Raises:
        EngineError: it is something else, or below `low`.
    """
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not int or value < low:
        raise EngineError(400, f"{name} must be an integer of at least {low}, got {value!r}")
    return value


def integers(values: dict[str, Any], name: str) -> list[int]:
    """A list of token ids; absent: empty.

    Raises:
        EngineError: it is something else.
    """
    value = values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        raise EngineError(400, f"{name} must be a list of token ids")
    return value


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


def speculation(sample: Sample, drafts: int) -> dict[str, Any]:
    """SGLang's counts with `drafts` tokens drafted per step, of which every step but an odd last one accepts one."""
    tokens = len(sample.token_ids)
    steps = max(1, (tokens + 1) // 2)
    accepted = max(0, tokens - steps)
    return {
        "spec_accept_rate": accepted / (steps * drafts),
        "spec_accept_length": tokens / steps,
        "spec_num_correct_drafts": accepted,
        "spec_num_proposed_drafts": steps * drafts,
        "spec_verify_ct": steps,
        "spec_correct_drafts_histogram": [steps - accepted, accepted],
    }
