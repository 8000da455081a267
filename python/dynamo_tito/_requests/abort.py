"""How a server is told to abort one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIXES = ("generate-tokens-", "chatcmpl-", "cmpl-")
"""What servers put before a request's id where they name it in an answer."""

_ENGINE_IDS = {
    "vllm_generate": "generate-tokens-{}",
    "prime_chat_tokens": "chatcmpl-{}",
    "vllm_completions": "cmpl-{}-0",  # of the first prompt, and there is one
}


@dataclass(frozen=True, slots=True)
class Abort:
    """One route that may exist: its path below the server's root, and the body."""

    path: str
    members: dict[str, Any]


def aborts(transport: str, request_id: str) -> list[Abort]:
    """The routes to try in turn.

    vLLM's engine knows a request under the id with the prefix of its route (0.33 ``token_in_token_out/serving.py``);
    ``/abort_requests`` is there with ``--tokens-only`` and in development mode only, and takes an empty list for all.
    SGLang aborts every request whose id begins with this one (0.5.23 ``managers/scheduler.py``). Dynamo's workers have
    the last one, its frontend has none.
    """
    engine = Abort("/engine/abort_request", {"request_id": request_id})
    if (engine_id := _ENGINE_IDS.get(transport)) is not None:
        members = {"request_ids": [engine_id.format(request_id)]}
        return [Abort("/inference/v1/abort_requests", members), Abort("/abort_requests", members), engine]
    if transport in ("sglang_generate", "sglang_chat"):
        return [Abort("/abort_request", {"rid": request_id}), engine]
    return [engine]
