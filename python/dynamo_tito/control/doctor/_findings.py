"""What the doctor found, and what to change where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from dynamo_tito._config import Backend

Verdict: TypeAlias = Literal["ok", "note", "change"]
"""``ok`` as it should be; ``note`` as it is, and the clients cope; ``change`` something on the server."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a server.

    Attributes:
        topic: what was asked: ``"server"``, a transport, ``"discovery"``, ``"administration"``, ...
        verdict: see :data:`Verdict`.
        found: what the server does.
        advice: what to change; None if nothing.
    """

    topic: str
    verdict: Verdict
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about a server.

    Attributes:
        url: the server, without credentials.
        backend: whose it is.
        name: the backend's name, and its version where a route told it: ``"vLLM 0.33.0"``, ``"Dynamo"``.
        version: as a route told it; None where none does.
        recognised_by: what showed whose server it is.
        model: the model that was asked.
        findings: in the order in which they were found.
    """

    url: str
    backend: Backend
    name: str
    version: str | None
    recognised_by: str
    model: str | None
    findings: tuple[Finding, ...]


NO_WIRE: dict[str, str] = {
    "vllm": "start vLLM with --enable-scale-out (0.32 and above), or take 0.31",
    "dynamo": "for /inference/v1/generate set DYN_VLLM_ENABLE_INFERENCE_V1_GENERATE=1 on the frontend",
}
NO_NATIVE_GENERATE = "it needs SGLang workers, and DYN_SGLANG_ENABLE_GENERATE=1 on the frontend"

_MOE = "the model must be a mixture of experts"
NO_EXPERTS: dict[str, str] = {
    "vllm": f"start vLLM with --enable-return-routed-experts; {_MOE}",
    "prime": f"start the server with --enable-return-routed-experts; {_MOE}",
    "dynamo": f"start the workers with --enable-return-routed-experts; {_MOE}",
    "sglang": f"start SGLang with --enable-return-routed-experts; {_MOE}",
}
NO_ADMIN: dict[str, tuple[str, str]] = {
    "vllm": ("/pause", "set VLLM_SERVER_DEV_MODE=1 on the server"),
    "prime": ("/pause", "take a build with the routes for pausing"),
    "sglang": ("/pause_generation", "take a version of SGLang that has it"),
}
_LOGITS = "logits, not log-probabilities: start {} with --logprobs-mode processed_logprobs (or raw_logprobs)"
POSITIVE_LOGPROB: dict[str, str] = {
    "vllm": _LOGITS.format("vLLM"),
    "prime": _LOGITS.format("the server"),
    "dynamo": _LOGITS.format("the vLLM workers"),
    "sglang": "these are no log-probabilities: look for a patch of SGLang's sampler",
}
