"""Completions without a server, for rollouts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dynamo_tito._types import Completion, RoutedExperts


def routed(rows: int, start: int = 0, *, dtype: str = "uint8", layers: int = 2, top_k: int = 2, **more: Any) -> Any:
    """Rows that say where they are: position, layer and slot in each id."""
    position = np.arange(start, start + rows)[:, None, None]
    ids = (position * 4 + np.arange(layers)[:, None] * 2 + np.arange(top_k)) % 251
    fields = {"start": start, "wire_dtype": dtype, "complete": True, **more}
    return RoutedExperts(array=ids.astype(dtype), **fields)


def completion(token_ids: list[int], experts: RoutedExperts | None = None, **fields: Any) -> Completion:
    """What decoding returns."""
    blank = Completion(
        token_ids=np.array(token_ids, np.int32),
        logprobs=-np.arange(1.0, len(token_ids) + 1.0),
        top_logprobs=None,
        prompt_token_ids=None,
        prompt_logprobs=None,
        routed_experts=experts,
        sampling_mask=None,
        finish_reason="stop",
        finish_reason_raw="stop",
        stop_reason=None,
        aborted=False,
        request_id="r",
        index=0,
        usage=None,
        weight_versions=None,
        sources={},
    )
    return dataclasses.replace(blank, **fields)
