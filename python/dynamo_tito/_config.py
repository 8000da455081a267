"""The clients' vocabulary, defaults and ceilings."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

RendererTransport: TypeAlias = Literal[
    "vllm_generate",
    "dynamo_chat",
    "dynamo_completions",
    "prime_chat_tokens",
    "vllm_completions",
    "sglang_generate",
    "sglang_chat",
]
"""Which route takes the token ids of a prompt, and in which body.

``vllm_generate`` is ``/inference/v1/generate`` (vLLM, prime-rl's server, Dynamo), ``dynamo_chat`` and
``dynamo_completions`` are Dynamo's OpenAI routes with ``nvext``, ``prime_chat_tokens`` is prime-rl's
``/v1/chat/completions/tokens``, ``vllm_completions`` is vLLM's ``/v1/completions`` with ``return_token_ids``,
``sglang_generate`` is SGLang's ``/generate`` and ``sglang_chat`` its ``/v1/chat/completions`` with ``input_ids``.
"""

Backend: TypeAlias = Literal["vllm", "prime", "dynamo", "sglang"]
"""Whose server it is; :func:`dynamo_tito.connect` picks the transport from it."""

SamplingDefaults: TypeAlias = Literal["neutral", "model"]
"""What the sampling parameters are that a call leaves open: neutral ones, or the server's own (:mod:`._requests`)."""

ArtifactMode: TypeAlias = Literal["inline"]
"""Where a generation artifact is sent: in the answer."""

HttpLibrary: TypeAlias = Literal["native", "httpx"]
"""What moves the bytes: the compiled core, or a library."""

BACKEND_TRANSPORTS: dict[Backend, RendererTransport] = {
    "vllm": "vllm_generate",
    "prime": "vllm_generate",
    "dynamo": "dynamo_chat",
    "sglang": "sglang_generate",
}

DEFAULT_TIMEOUT = 3600.0
"""Seconds from the call to its arrays. A rollout of 64k tokens takes minutes, a full queue before it as many."""

CONNECT_TIMEOUT = 10.0
"""Seconds for one TCP connection and its TLS handshake."""

KEEPALIVE = 3.0
"""Seconds that an idle connection is kept. Below the 5 s after which uvicorn, which serves vLLM and SGLang, closes
it: a request sent into a closing connection fails without a sign whether it was read, so it is not sent again."""

MAX_CONCURRENCY = 2048
"""Requests in flight from one client."""

PREFLIGHT_TIMEOUT = 10.0
"""Seconds for the question of how long a prompt may be; without an answer the prompt is sent unchecked."""

PREFLIGHT_AGAIN = 30.0
"""Seconds after which a question that failed is asked again."""

THREAD_FROM_BYTES = 1 << 20
"""Bodies of this size and more are decoded in a thread; the hop costs more than it gives below."""

_DEPTHS = range(16, 513)
"""What the decoder can be told: the wires themselves are less deep, and what is deeper would overflow a stack."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one answer. Each is looked at before memory is spent on what it bounds.

    The clients keep all of them; :func:`dynamo_tito.decode` and its siblings, which get a body that is there already,
    keep the last three, and :func:`dynamo_tito.decode_artifact` ``max_decompressed_bytes`` as well. An error names the
    ceiling that was passed, what was found, and the keyword that raises it.

    Attributes:
        max_response_bytes: of the body as sent.
        max_decompressed_bytes: of the body once decompressed.
        max_header_bytes: of status line and headers, interim answers included.
        max_error_bytes: read of an error's body; the rest is not waited for.
        max_tokens: elements of one list that has one per token: ids, log-probabilities, alternatives, a sampling mask.
        max_rows: rows of routed experts, dropped ones included.
        max_depth: brackets open at one time, 16 to 512.
    """

    max_response_bytes: int = 1 << 30
    max_decompressed_bytes: int = 1 << 30
    max_header_bytes: int = 1 << 16
    max_error_bytes: int = 1 << 16
    max_tokens: int = 1 << 24
    max_rows: int = 1 << 24
    max_depth: int = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field.name} must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{field.name} must be at least 1")
            if value >= 1 << 63:
                raise ValueError(f"{field.name} must be less than 2**63")
        if self.max_depth not in _DEPTHS:
            raise ValueError(f"max_depth must be {_DEPTHS[0]} to {_DEPTHS[-1]}")


def over_limit_message(found: str, ceiling: int, keyword: str) -> str:
    """The message for a value over its limit."""
    return f"{found}, more than {ceiling} (raised with limits=Limits({keyword}=...))"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is sent again that certainly was not sampled.

    That is: no connection came about, the server answered 429, or it answered 503 and said in the body that it did not
    start. Waits grow from ``initial`` to ``maximum`` seconds with full jitter; a longer ``Retry-After`` is honoured.

    Attributes:
        attempts: how often a request is sent at most, the first time included; 1 means never again.
        initial: seconds, upper bound of the first wait.
        maximum: seconds, upper bound of every wait that the server did not ask for.
        retry_after: seconds, the longest ``Retry-After`` that is honoured in full.
        budget: seconds of waiting in one call; a wait beyond it is not begun.
    """

    attempts: int = 4
    initial: float = 0.5
    maximum: float = 8.0
    retry_after: float = 30.0
    budget: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")
        for name in ("initial", "maximum", "retry_after", "budget"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of seconds, at least 0")
