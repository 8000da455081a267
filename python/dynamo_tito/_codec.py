"""The one module that imports the compiled core."""

from __future__ import annotations

from ._core import (
    Body,
    Room,
    build_info,
    configure_memory,
    decode,
    decode_choices,
    decode_prompt_logprobs,
    divergence,
    encode_routed_experts,
    encode_token_ids,
    memory_stats,
    scan_routing,
    trim_memory,
)

__all__ = [
    "Body",
    "Room",
    "build_info",
    "configure_memory",
    "decode",
    "decode_choices",
    "decode_prompt_logprobs",
    "divergence",
    "encode_routed_experts",
    "encode_token_ids",
    "memory_stats",
    "scan_routing",
    "trim_memory",
]
