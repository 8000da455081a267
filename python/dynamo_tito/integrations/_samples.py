"""What slime and miles share: their ``Sample`` has the same fields, and their servers SGLang's ``meta_info``."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._errors import RoutedExpertsError

from ._connection import Connection
from ._records import (
    base64_of,
    cast,
    ending_rows,
    ids_of,
    last_version,
    plain_params,
    prompt_length,
    recorded_rows,
    sample_from,
    sampled_logprobs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dynamo_tito._types import Completion, Int32Array
    from dynamo_tito.rollout import FinalRowPolicy, TrainingSample
    from dynamo_tito.rollout.routing import Chunk

_connections: dict[tuple[Any, ...], Connection] = {}


def connection(args: Any) -> Connection:
    """The server that the arguments of a run name, one connection for each in a process.

    ``tito_base_url``, ``tito_backend`` and ``tito_model`` name one of any kind; without them it is the SGLang router of
    ``sglang_router_ip`` and ``sglang_router_port``. Routed experts are asked for with ``use_rollout_routing_replay``.
    """
    url = getattr(args, "tito_base_url", None) or f"http://{args.sglang_router_ip}:{args.sglang_router_port}"
    replay = bool(getattr(args, "use_rollout_routing_replay", False))
    options: dict[str, Any] = {
        "backend": getattr(args, "tito_backend", "sglang"),
        "model": getattr(args, "tito_model", None),
    }
    if replay:
        options |= {"num_layers": args.num_layers, "top_k": args.moe_router_topk, "require_routed_experts": True}
    else:
        options["experts"] = "skip"
    key = (url, *sorted(options.items()))
    return _connections.setdefault(key, Connection(url, **options))


async def ask(args: Any, prompt_ids: Int32Array, params: Mapping[str, Any], *, start: int, session: Any) -> Completion:
    """One answer to what a ``Sample`` holds so far.

    Args:
        args: of the run.
        prompt_ids: int32, all tokens of the sample.
        params: SGLang's sampling parameters.
        start: rows of routing that are held.
        session: keeps the requests of a sample together; None for nothing.
    """
    return (
        await connection(args)
        .client()
        .generate(
            prompt_ids,
            sampling_params=plain_params(params),
            routed_experts_prompt_start=start or None,
            session_id=None if session is None else str(session),
        )
    )


def prompt_of(sample: Any, tokenizer: Any) -> Int32Array:
    """The tokens that a ``Sample`` continues.

    Raises:
        NotImplementedError: images, video or audio.
    """
    media = getattr(sample, "multimodal_inputs", None)
    if media and any(value is not None for value in media.values()):
        raise NotImplementedError("images, video and audio are not sent: the server takes token ids")
    if sample.tokens:
        return ids_of(sample.tokens)
    prompt = sample.prompt
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return ids_of(tokenizer.encode(prompt, add_special_tokens=False))


def meta_info(completion: Completion, prompt_len: int, rows: Chunk | str | None) -> dict[str, Any]:
    """SGLang's ``meta_info`` of a completion, with ``rows`` as they are to be handed over."""
    experts = completion.routed_experts
    info = {
        "finish_reason": {"type": completion.finish_reason},
        "prompt_tokens": prompt_len,
        "completion_tokens": len(completion.token_ids),
        "cached_tokens": _cached(completion.usage),
    }
    if (version := last_version(completion)) is not None:
        info["weight_version"] = version
    if rows is not None and experts is not None:
        info |= {"routed_experts": rows, "routed_experts_start_len": experts.start}
    return info


def new_rows(completion: Completion, prompt_len: int) -> Chunk | None:
    """The rows of a completion, int32, from its start to position P + C - 2.

    None where it was aborted and rows are missing at its end: the request that continues it brings them.

    Raises:
        RoutedExpertsError: they do not end there.
    """
    experts = completion.routed_experts
    if experts is None or (completion.aborted and not experts.complete):
        return None
    return cast(ending_rows(experts, prompt_len + len(completion.token_ids)), np.int32)


def gap(start: int, held: int) -> RoutedExpertsError:
    """What to raise where rows do not continue those held."""
    return RoutedExpertsError(f"rows of routed experts begin at position {start}, only {held} are held", kind="gap")


def encode_rows(rows: Chunk) -> str:
    """Rows as SGLang sends them: base64 of int32, little-endian, without their shape."""
    return base64_of(cast(rows, np.int32))


def decode_rows(text: str, *, num_layers: int, top_k: int) -> Chunk:
    """Rows of that form, int32 [rows, layers, top_k], read-only.

    Raises:
        ValueError: no base64, or no whole number of rows.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), "<i4")
    if len(values) % (num_layers * top_k):
        raise ValueError(f"{len(values)} experts are no rows of {num_layers} layers and {top_k} experts")
    return values.reshape(-1, num_layers, top_k)


def fields_of(sample: TrainingSample) -> dict[str, Any]:
    """The fields of a ``Sample``: the tokens before the first sampled one are the prompt, all others the response."""
    start = prompt_length(sample)
    rows = recorded_rows(sample)
    return {
        "tokens": sample.token_ids.tolist(),
        "response_length": len(sample) - start,
        "loss_mask": sample.mask[start:].astype(np.int64).tolist(),
        "rollout_log_probs": sampled_logprobs(sample)[start:].tolist(),
        "rollout_routed_experts": None if rows is None else cast(rows, np.int32),
        "weight_versions": [span.version for span in sample.weight_versions],
    }


def sample_of(sample: Any, *, final_row: FinalRowPolicy) -> TrainingSample:
    """The training sample that a ``Sample`` holds."""
    start = len(sample.tokens) - sample.response_length
    before = np.zeros(start, np.bool_)
    mask = np.ones(sample.response_length, np.bool_) if sample.loss_mask is None else np.asarray(sample.loss_mask, bool)
    logprobs = sample.rollout_log_probs
    reasons = {"completed": "stop", "truncated": "length", "aborted": "abort"}
    return sample_from(
        sample.tokens,
        np.concatenate([before, mask]),
        None if logprobs is None else np.concatenate([np.full(start, np.nan), logprobs]),
        rows=sample.rollout_routed_experts,
        final_row=final_row,
        finish_reason=reasons.get(sample.status.value),
    )


def _cached(usage: Mapping[str, Any] | None) -> int:
    details = (usage or {}).get("prompt_tokens_details") or {}
    return int((usage or {}).get("cached_tokens") or details.get("cached_tokens") or 0)
