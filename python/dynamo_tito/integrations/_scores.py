"""Scores of given tokens over an ``AsyncOpenAI``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tito._native import decode_prompt_logprobs
from dynamo_tito._requests import dialect, make_call, score_draft, score_params, score_rows_from

from ._frameworks import framework
from ._send import post

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport
    from dynamo_tito._types import PromptLogprobs


async def score(client: Any, model: str, token_ids: list[int], transport: RendererTransport) -> PromptLogprobs:
    """The log-probability of each token, looked up by its id; see :meth:`dynamo_tito.AsyncTitoClient.score`."""
    spec = dialect(transport)
    call = make_call(
        token_ids,
        model=model,
        ids_name="token_ids",
        sampling_params=score_params(transport, 0),
        routed_experts_prompt_start=score_rows_from(transport, len(token_ids)),
    )
    draft = score_draft(transport, spec.draft(call), start=0, top_k=0, temperature=1.0)
    url = str(client.base_url).rstrip("/").removesuffix("/v1") + spec.path
    body = await post(
        client, url, spec, draft, call, spec.headers(call), cast_to=framework("httpx", extra="prime-rl").Response
    )
    return decode_prompt_logprobs(body, wire=spec.wire, prompt_token_ids=token_ids)
