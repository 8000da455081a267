"""Generation artifacts: captured and encoded by Dynamo's own code, from what the stand-in engine sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

try:
    from dynamo.artifacts.vllm.capture import VllmArtifactSession
    from dynamo.common.metadata_upload import _backend_metadata_upload_settings
except ImportError:  # before 1.7 there are none
    VllmArtifactSession = _backend_metadata_upload_settings = None
from dynamo.llm.exceptions import InvalidArgument


@dataclass(frozen=True)
class Score:
    """An entry of vLLM's log-probabilities."""

    logprob: float


@dataclass
class Output:
    """What the capture looks at of vLLM's output."""

    token_ids: list[int]
    logprobs: list[dict[int, Score]]
    routed_experts: Any
    index: int = 0


def session(request: dict[str, Any], call: Any, control: dict[str, Any]) -> Any:
    """A capture of this request, as the vLLM worker begins it; None where none was asked for."""
    if VllmArtifactSession is None or "kind" not in (_backend_metadata_upload_settings(request) or {}):
        return None
    layers, experts, top_k = (control[name] for name in ("num_layers", "num_experts", "top_k"))
    try:
        return VllmArtifactSession.from_request(
            request,
            prompt_token_count=len(call.prompt),
            max_tokens=call.max_tokens,
            choice_count=call.n,
            route_capture_enabled=control["routed_experts"] is not None,
            router_profile=[[layer, experts, top_k] for layer in range(layers)],
            logprob_width=width(call),
        )
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def width(call: Any) -> int:
    """Candidates of each token."""
    return max(1, call.logprobs or 0)


def is_last(chunk: dict[str, Any]) -> bool:
    """Whether the worker sends the artifact with this chunk: it has none of what failed or was cancelled."""
    reason = chunk.get("finish_reason")
    return reason is not None and reason != "cancelled" and not reason.startswith("error")


async def upload(
    capture: Any, prompt: list[int], sample: Any, entries: list[list[tuple[int, float, int]]], routing: Any
) -> dict[str, Any]:
    """What the worker says of the artifact; ``entries`` are (id, log-probability, rank), the sampled token first."""
    rows = [{token: Score(value) for token, value, _ in position} for position in entries]
    for row, token, value in zip(rows, sample.token_ids.tolist(), sample.logprobs.tolist(), strict=True):
        row[token] = Score(value)
    await capture.observe_async(Output(sample.token_ids.tolist(), rows, routing), prompt)
    settled: dict[str, Any] = await capture.finalize()
    return settled
