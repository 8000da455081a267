"""Completions and samples whose every value says where it is, for adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamo_tito._types import Completion, TopLogprobs
from dynamo_tito.rollout import TrainingSample, TurnSpan, WeightSpan, sample_of
from dynamo_tito.rollout.routing import Rows
from support.completions import completion, routed

PROMPT = [11, 12, 13, 14, 15]
LAYERS, TOP_K = 2, 2


def turn(sampled: int = 4, *, prompt: int = len(PROMPT), experts: bool = True, **fields: Any) -> Completion:
    """A completion of a prompt, with the rows of positions 0 to P + C - 2."""
    rows = routed(prompt + sampled - 1, dtype=fields.pop("width", "uint8")) if experts else None
    return completion(
        [*range(100, 100 + sampled)],
        rows,
        **{"weight_versions": [{"version": "step_7", "start": 0, "end": sampled}], **fields},
    )


def alternatives(ids: NDArray[np.int32], logprobs: NDArray[np.floating], width: int) -> TopLogprobs:
    """The sampled token first, then ids that no one sampled, each less likely; one entry fewer at the first token."""
    names = ids[:, None] + 1000 * np.arange(width)
    values = logprobs[:, None] - 0.5 * np.arange(width)
    kept = np.ones(names.shape, np.bool_)
    kept[0, -1] = False
    return TopLogprobs(
        names[kept].astype(np.int32), values[kept].astype(np.float64), np.cumsum([0, *kept.sum(1)]).astype(np.int64)
    )


def single(**fields: Any) -> TrainingSample:
    """A sample of one turn; its last row is a policy's."""
    return sample_of(PROMPT, turn(**fields), final_row="spread")


@dataclass
class Conversation:
    """Two turns with a tool's answer between, as engines recorded them."""

    token_ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    logprobs: NDArray[np.float64]
    rows: NDArray[np.uint8]
    sample: TrainingSample


def conversation() -> Conversation:
    """A prompt of 5, 3 sampled, 4 given, 2 sampled; every row recorded but the last one, which is spread."""
    ids = np.arange(50, 64, dtype=np.int32)
    mask = np.zeros(14, np.bool_)
    mask[5:8] = mask[12:] = True
    logprobs = np.where(mask, -0.25 * np.arange(1, 15), np.nan)
    rows = routed(13).array
    last = np.broadcast_to(np.arange(TOP_K, dtype=np.uint8), (1, LAYERS, TOP_K))
    turns = (
        TurnSpan(0, 5, 8, "tool_calls", None, False, "one", (WeightSpan("step_7", 5, 8),)),
        TurnSpan(8, 12, 14, "stop", None, False, "two", (WeightSpan("step_8", 12, 14),)),
    )
    return Conversation(ids, mask, logprobs, rows, TrainingSample(ids, mask, logprobs, Rows([rows, last]), turns))


def same_values(one: TrainingSample, other: TrainingSample, *, decimals: bool = True) -> None:
    """Tokens, mask, log-probabilities (as float32 unless ``decimals``) and rows are equal, one by one."""
    assert one.token_ids.tolist() == other.token_ids.tolist()
    assert one.mask.tolist() == other.mask.tolist()
    width = np.float64 if decimals else np.float32
    assert np.array_equal(one.logprobs.astype(width), other.logprobs.astype(width), equal_nan=True)
    rows, others = one.routed_experts, other.routed_experts
    if rows is None or others is None:
        assert rows is others
    else:
        assert rows.tolist() == others.tolist()


def engine_rows(engine: Any, number: int = -1) -> NDArray[Any]:
    """What the embedded engine routed for a request, positions 0 to P + C - 2, in its own record."""
    return np.asarray(engine.requests[number].samples[0].routed_experts)
