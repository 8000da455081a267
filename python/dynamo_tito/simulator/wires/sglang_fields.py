"""What SGLang puts into `meta_info` on request: flat alternatives, the sampler's view, rows of an indexer.

Facts: `srt/managers/tokenizer_manager.py` and `srt/state_capturer/indexer_topk.py` of SGLang 0.5.23.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynamo_tito.simulator.config import EngineConfig
from dynamo_tito.simulator.encode import routing_bare
from dynamo_tito.simulator.model import Sample

from .common import Entry

__all__ = ["flat_top", "indexer_topk", "sampled_from"]


def flat_top(side: str, rows: Sequence[Sequence[Entry]], prefix: int, *, packed: bool) -> dict[str, Any]:
    """The fields of rows of one length behind `prefix` positions without alternatives."""
    values = [[float(entry[1]) for entry in row] for row in rows[prefix:]]
    tokens = [[entry[0] for entry in row] for row in rows[prefix:]]
    width = len(values[0]) if values else 1
    fields: dict[str, Any] = {}
    for name, table, dtype, named in (("val", values, "<f4", "float32"), ("idx", tokens, "<i4", "int32")):
        flat = np.array(table, dtype)
        key = f"{side}_top_logprobs_{name}_flat"
        if packed:
            fields[f"{key}_b64"] = base64.b64encode(flat.tobytes()).decode()
            fields[f"{key}_b64_dtype"] = named
        else:
            fields[key] = [value for row in table for value in row]
    shape = {"shape": [len(values), width], "null_prefix": prefix}
    return fields | {f"{side}_top_logprobs_{name}": value for name, value in shape.items()}


def sampled_from(rows: Sequence[Sequence[Entry]]) -> dict[str, Any]:
    """The ids that each token was sampled from, and its log-probability among them: the first of each row."""
    chosen = []
    for row in rows:
        values = np.array([float(entry[1]) for entry in row])
        chosen.append(float(np.float32(values[0] - np.logaddexp.reduce(values))))
    return {
        "output_token_sampling_mask": [sorted(entry[0] for entry in row) for row in rows],
        "output_token_sampling_logprobs": chosen,
        "output_token_sampling_mask_length": len(rows),
    }


def indexer_topk(sample: Sample, config: EngineConfig) -> dict[str, Any]:
    """Of every position but the last: in each layer the newest positions up to it, and -1 in slots that are left."""
    length = len(sample.prompt_ids) + len(sample.token_ids) - 1
    position = np.arange(length, dtype="<i4")[:, None, None]
    layer = np.arange(config.num_indexer_layers, dtype="<i4")[:, None]
    slot = np.arange(config.index_topk, dtype="<i4")
    # Each layer has the positions in another order.
    slot = (slot + layer) % config.index_topk
    return {"indexer_topk": routing_bare(np.maximum(position - slot, -1))}
