"""Hypothesis strategies: arrays that an engine can send."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from .bodies import CONTAINERS, DIALECTS, Container, Dialect, Experts, Sample

token_ids = st.integers(0, 2**31 - 1) | st.integers(0, 200_000)
SENTINELS = (-9999.0, -1e30, float(np.float32(-1e30)))
scores = st.floats(max_value=1e-3, allow_nan=False, allow_infinity=False).filter(lambda value: value not in SENTINELS)
dialects = st.sampled_from(list(DIALECTS.values()))
containers = st.sampled_from(CONTAINERS)
dtypes = st.sampled_from(["uint8", "uint16", "int16", "int32"])


@st.composite
def samples(draw: st.DrawFn, *, prompt: list[int] | None = None) -> Sample:
    """One choice; with ``prompt`` given, another choice of the same request."""
    if prompt is None:
        prompt = draw(st.lists(token_ids, min_size=1, max_size=8))
    tokens = draw(st.lists(token_ids, max_size=8))
    count = len(tokens)
    alternatives = st.lists(st.tuples(token_ids, scores), max_size=3)
    scored = draw(st.booleans())
    masked = draw(st.booleans())
    return Sample(
        prompt=prompt,
        tokens=tokens,
        logprobs=draw(st.lists(scores, min_size=count, max_size=count)),
        top=draw(st.lists(alternatives, min_size=count, max_size=count)),
        prompt_logprobs=[draw(_position(token)) for token in prompt] if scored else None,
        mask=[draw(_survivors(token)) for token in tokens] if masked else None,
        experts=draw(experts(len(prompt) + count - 1)) if draw(st.booleans()) else None,
        finish=draw(st.sampled_from(["stop", "length", "content_filter", "abort"])),
    )


@st.composite
def _survivors(draw: st.DrawFn, token: int) -> list[int]:
    """A row of a sampling mask, the sampled token among them, in any order."""
    return draw(st.permutations([token, *draw(st.lists(token_ids, max_size=3))]))


@st.composite
def _position(draw: st.DrawFn, token: int) -> dict[int, float]:
    """Scores of one prompt position, the actual token among them, in any order."""
    entries = draw(st.dictionaries(token_ids, scores, max_size=3)) | {token: draw(scores)}
    return dict(draw(st.permutations(list(entries.items()))))


@st.composite
def experts(draw: st.DrawFn, rows: int) -> Experts:
    dtype = np.dtype(draw(dtypes))
    shape = (rows, draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    array: Experts = draw(nps.arrays(dtype, shape, elements=st.integers(0, np.iinfo(dtype).max)))
    return array


@st.composite
def randoms(draw: st.DrawFn) -> Random:
    """Spelling is not worth shrinking character by character: one seed decides it."""
    return Random(draw(st.integers(0, 2**32)))


def known(sample: Sample) -> dict[str, Any]:
    """The options of a caller."""
    shape = (None, 1, 1) if sample.experts is None else sample.experts.shape
    return {"prompt_token_ids": sample.prompt, "num_layers": shape[1], "top_k": shape[2]}


__all__ = ["Container", "Dialect", "containers", "dialects", "experts", "known", "randoms", "samples", "token_ids"]
