"""What a server tells of how it ran a request: types, units and where each value comes from.

Facts: SGLang 0.5.23 (``srt/managers/tokenizer_manager.py``, ``observability/req_time_stats.py``), vLLM 0.33
(``entrypoints/generate/base/protocol.py``), Dynamo 1.6.1 and 1.7 (``WorkerIdInfo`` and ``TimingInfo`` of its answers,
``vllm/handlers.py``).
"""

from __future__ import annotations

from typing import TypedDict


class CachedTokens(TypedDict, total=False):
    """Tokens of the prompt that SGLang found cached, by where they were."""

    device: int
    host: int
    storage: int
    storage_backend: str


class SpeculativeDecoding(TypedDict, total=False):
    """What speculation came to, as vLLM counts it (0.33, ``entrypoints/generate/base/protocol.py``).

    Attributes:
        mean_acceptance_length: tokens per verify step, the bonus token included.
        draft_acceptance_rate: accepted drafts of all drafts, 0 to 1.
        acceptance_histogram: at index j the verify steps that accepted exactly j drafts.
    """

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class RequestMetrics(TypedDict, total=False):
    """How long a request took on vLLM, with ``--enable-per-request-metrics``, and what speculation came to."""

    time_to_first_token_ms: float
    generation_time_ms: float
    queue_time_ms: float
    mean_itl_ms: float
    tokens_per_second: float
    speculative_decoding: SpeculativeDecoding


class WorkerIds(TypedDict, total=False):
    """Who served a request on Dynamo, with ``worker_id`` in ``nvext.extra_fields``. The ids have 64 bits."""

    prefill_worker_id: int
    prefill_dp_rank: int
    decode_worker_id: int
    decode_dp_rank: int


class RequestTiming(TypedDict, total=False):
    """How long a request took on Dynamo, with ``timing`` in ``nvext.extra_fields``.

    Attributes:
        request_received_ms: milliseconds since 1970.
        kv_hit_rate: the part of the prompt that the router expected to be cached, 0 to 1.
        router_queue_depth: requests that waited before this one.
    """

    request_received_ms: int
    prefill_wait_time_ms: float
    prefill_time_ms: float
    ttft_ms: float
    total_time_ms: float
    kv_hit_rate: float
    router_queue_depth: int


class CacheHit(TypedDict, total=False):
    """Tokens of the prompt, and those of them that Dynamo's worker reused."""

    prompt_tokens: int
    reused_tokens: int


class EngineInfo(TypedDict, total=False):
    """What the server tells of how it ran the request, by the server's own names; what it does not tell is absent.

    A value of another type than here is left out, and named in ``sources["engine"]``. Nothing is compared with these
    values. Cached tokens are also in ``usage``, as on the wire.

    Attributes:
        num_retractions: SGLang: how often the request lost its place in the batch and was prefilled again.
        cached_tokens_details: SGLang.
        dp_rank: SGLang: the data-parallel rank that served the request.
        queue_time: SGLang, seconds, with ``--enable-metrics``; likewise ``first_token_latency`` and, in tokens per
            second, ``decode_throughput``.
        e2e_latency: SGLang, seconds.
        spec_accept_rate: SGLang with speculative decoding: accepted drafts of all drafts, 0 to 1.
        spec_accept_length: tokens per verify step, the bonus token included.
        spec_num_correct_drafts: accepted drafts.
        spec_num_proposed_drafts: all drafts.
        spec_verify_ct: verify steps.
        spec_cap_length: drafts per verify step that a cap let through.
        spec_block_accept_length: drafts per verify step that were accepted as a block.
        spec_correct_drafts_histogram: at index j the verify steps that accepted j drafts.
        spec_cap_lens_histogram: at index j the verify steps with a cap of j.
        metrics: vLLM; None of it for several samples.
        worker_id: Dynamo; likewise ``timing`` and, of its workers, ``kv_cache_hit``.
    """

    num_retractions: int
    cached_tokens_details: CachedTokens
    dp_rank: int
    queue_time: float
    first_token_latency: float
    e2e_latency: float
    decode_throughput: float
    spec_accept_rate: float
    spec_accept_length: float
    spec_num_correct_drafts: int
    spec_num_proposed_drafts: int
    spec_verify_ct: int
    spec_cap_length: float
    spec_block_accept_length: float
    spec_correct_drafts_histogram: list[int]
    spec_cap_lens_histogram: list[int]
    metrics: RequestMetrics
    worker_id: WorkerIds
    timing: RequestTiming
    kv_cache_hit: CacheHit
