"""`nvext.metadata_upload` of Dynamo: what 1.7's frontend and worker take and answer; 1.6.1 knows a URL alone.

Facts: answers of the real frontends, and `dynamo/artifacts/vllm/capture.py` of ai-dynamo 1.7.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamo_tito.simulator.artifact import artifact
from dynamo_tito.simulator.calls import Ask, EngineError
from dynamo_tito.simulator.config import EngineConfig
from dynamo_tito.simulator.encode import Raw
from dynamo_tito.simulator.model import Sample

from .serde import deserialize_error, end_of

__all__ = ["answer", "read_upload", "refuse_upload", "width"]

_KIND, _INLINE = "generation_artifact", "inline_base64"
_CONTENTS = frozenset(("moe_routes", "selected_logprobs", "topk_logprobs"))
_MODES = (_INLINE, "object_store", "relay_store")
_MOST_NAMES = 64
# In base64, of the bound of what is captured; and in bytes, of what is encoded.
_MOST_INLINE, _MOST_ENCODED = 1 << 20, (1 << 20) * 3 // 4


def read_upload(nvext: Mapping[str, Any], body: bytes, config: EngineConfig) -> frozenset[str] | None:
    """What an artifact is asked to have; None: no artifact is asked for.

    Raises:
        EngineError: as the frontend refuses it while it reads the body.
    """
    upload = nvext.get("metadata_upload")
    if upload is None:
        return None
    if config.dynamo_version == "1.6.1":
        for key in upload if isinstance(upload, dict) else ():
            if key != "url":
                place = end_of(body, "nvext", "metadata_upload", key, key=True)
                raise deserialize_error(f"unknown field `{key}`, expected `url`", place)
        return None
    if problem := _problem(upload):
        raise deserialize_error(problem, end_of(body, "nvext"))
    return frozenset(upload["contents"]) if "kind" in upload else None


def _problem(upload: Any) -> str | None:
    if not isinstance(upload, dict):
        return "metadata_upload must be an object"
    if "kind" not in upload:
        return "unknown legacy metadata_upload field" if upload.keys() - {"url"} else None
    contents, mode = upload.get("contents"), upload.get("mode")
    named: list[str] | None = contents if isinstance(contents, list) else None
    known = {"kind", "contents", "mode", *(() if mode == _INLINE else ("destination",))}
    problem = None
    if upload["kind"] != _KIND:
        problem = "unsupported metadata_upload kind"
    elif (
        named is None or not all(isinstance(name, str) for name in named) or mode not in _MODES or upload.keys() - known
    ):
        problem = "invalid generation_artifact metadata_upload shape"
    elif "" in named or len(set(named)) != len(named) or len(named) > _MOST_NAMES:
        problem = f"artifact contents must contain at most {_MOST_NAMES} unique nonempty names"
    elif mode != _INLINE and not isinstance(upload.get("destination"), dict):
        problem = "artifact destination is incompatible with the delivery mode"
    return problem


def refuse_upload(
    contents: frozenset[str] | None,
    document: dict[str, Any],
    asks: list[Ask],
    logprobs: int | None,
    config: EngineConfig,
) -> None:
    """Refuse an artifact that the frontend does not pass on, or that the worker does not capture.

    Raises:
        EngineError: 400.
    """
    if contents is None:
        return
    if len(asks) != 1 or asks[0].n != 1 or document.get("best_of") not in (None, 1):
        raise EngineError(400, "generation_artifact metadata_upload requires a single prompt and n = best_of = 1")
    if document.get("stop"):
        raise EngineError(400, "generation_artifact metadata_upload does not support stop strings")
    if contents - _CONTENTS:
        raise EngineError(400, "invalid artifact contents")
    if document["nvext"]["metadata_upload"]["mode"] != _INLINE:
        raise EngineError(400, "artifact delivery authority must be configured")
    if "moe_routes" in contents and not config.routed_experts:
        raise EngineError(400, "routed-expert capture and declared router profile are required")
    limit = asks[0].max_tokens
    most = config.default_max_tokens if limit is None else limit
    extent = len(asks[0].prompt_ids) + most
    routes = extent * config.num_layers * config.top_k if "moe_routes" in contents else 0
    values = 4 * ("selected_logprobs" in contents) + 12 * width(logprobs) * ("topk_logprobs" in contents)
    bound = extent * 8 + routes * 2 + most * values + 8192 + config.num_layers * 512
    if bound * 4 // 3 + 4 > _MOST_INLINE:
        raise EngineError(400, "artifact exceeds inline worst-case size")


def width(logprobs: int | None) -> int:
    """Candidates of each token."""
    return max(1, logprobs or 0)


def answer(
    sample: Sample, contents: frozenset[str], candidates: int, rows: NDArray[np.generic] | None
) -> dict[str, Any] | None:
    """What the worker says of the artifact, with its last chunk; None: it was cancelled.

    ``rows`` are the routed experts from position 0 on, where they are wanted.
    """
    if sample.finish_reason in ("abort", "cancelled"):
        return None
    head = {"kind": _KIND, "mode": _INLINE, "format": "generation_artifact_v1", "contents": sorted(contents)}
    failed = head | {"state": "failed", "error_code": "capture_invalid"}
    if "moe_routes" in contents and rows is None:
        return failed
    if rows is not None and len(rows) > len(sample.prompt_ids) + len(sample.token_ids) - 1:
        return failed
    data = artifact(
        sample.prompt_ids,
        sample.token_ids,
        routes=rows,
        experts=sample.model.num_experts,
        logprobs=sample.logprobs if "selected_logprobs" in contents else None,
        candidates=_best(sample, candidates) if "topk_logprobs" in contents else None,
    )
    if len(data) > _MOST_ENCODED:
        return failed
    return head | {"byte_count": len(data), "data_base64": Raw((b'"', base64.b64encode(data), b'"'))}


def _best(sample: Sample, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best k tokens of each position, best first; of two that are equal, the smaller id."""
    scores = sample.scores
    ids, logprobs, _, _ = sample.model.alternatives(scores, k)
    ids = np.column_stack([scores.token_ids, ids])
    logprobs = np.column_stack([scores.logprobs, logprobs])
    order = np.lexsort((ids, -logprobs))[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(logprobs, order, 1)
