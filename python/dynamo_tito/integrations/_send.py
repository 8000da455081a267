"""Sending a prepared request: by the client that the framework made, or by one of this library."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamo_tito._client import AsyncTitoClient
from dynamo_tito._client.whole import whole_answer
from dynamo_tito._requests import Call, Dialect, Draft, dialect, encode, make_call

from ._openai_errors import openai_errors

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport
    from dynamo_tito._native import Body

    from ._prepared import Prepared

_SESSION = "x-session-id"
_START = "routed_experts_prompt_start"
_COMPACT = "prl_compact_logprobs"


@dataclass(frozen=True, slots=True)
class Sent:
    """The answer, and what was asked.

    Attributes:
        body: the answer.
        spec: the route.
        start: the first position whose routed experts were asked for.
    """

    body: Body | bytes
    spec: Dialect
    start: int


async def send(client: Any, prepared: Prepared, transport: RendererTransport, *, routed_experts: bool) -> Sent:
    """Send once, on any route.

    Raises:
        NotImplementedError, ValueError: the route cannot carry the request; nothing was sent.
        openai.OpenAIError: the server answered with an error, or no answer came.
    """
    spec = dialect(transport)
    verbatim = transport == "vllm_generate"
    headers = prepared.headers
    call = _call(prepared, headers, routed_experts=routed_experts, verbatim=verbatim)
    if verbatim:
        draft = _verbatim(prepared)
    elif isinstance(client, AsyncTitoClient):
        draft = spec.draft(call)
    else:
        # Asking again without the field is the client's affair: this one does not.
        draft = spec.draft(call, send_start=not spec.may_refuse_start)
    start = min(draft.prompt_start, max(call.prompt_len - 1, 0))
    if isinstance(client, AsyncTitoClient):
        with openai_errors(client.base_url + spec.path):
            own = draft if verbatim else None
            return Sent(await whole_answer(client, spec, call, headers, verbatim=own), spec, start)
    url = str(client.base_url).rstrip("/").removesuffix("/v1") + spec.path
    headers = {**spec.headers(call), **headers}
    return Sent(await post(client, url, spec, draft, call, headers, cast_to=prepared.cast_to), spec, start)


async def post(
    client: Any, url: str, spec: Dialect, draft: Draft, call: Call, headers: Mapping[str, str], *, cast_to: Any
) -> bytes:
    """Send by an ``AsyncOpenAI``, which takes a body as bytes, or by a stand-in of one, which takes its members."""
    openai = sys.modules.get("openai")
    if openai is not None and isinstance(client, openai.AsyncOpenAI):
        options = {"headers": {**headers, "content-type": "application/json"}}
        response = await client.post(url, cast_to=cast_to, content=encode(draft, call, spec.transport), options=options)
    else:
        more = {"options": {"headers": dict(headers)}} if headers else {}
        response = await client.post(url, cast_to=cast_to, body=_members(draft, call), **more)
    body: bytes = response.content
    return body


def _call(prepared: Prepared, headers: dict[str, str], *, routed_experts: bool, verbatim: bool) -> Call:
    """The call; of another route than theirs, the session travels as that route takes it."""
    if verbatim:
        return make_call(prepared.prompt_ids, model=prepared.body["model"])
    if prepared.expands or "features" in prepared.body:
        raise NotImplementedError("pictures travel on transport='vllm_generate' only")
    params = dict(prepared.sampling_params)
    extra = dict(params.pop("extra_args", None) or {})
    extra.pop(_COMPACT, None)  # theirs asks for it unasked, and reads answers without it
    if extra:
        params["extra_args"] = extra
    named = [name for name in headers if name.lower() == _SESSION]
    session = [headers.pop(name) for name in named]
    return make_call(
        prepared.prompt_ids,
        model=prepared.body["model"],
        sampling_params=params,
        cache_salt=prepared.body.get("cache_salt"),
        priority=prepared.body.get("priority"),
        session_id=session[-1] if session else None,
        routed_experts=routed_experts,
    )


def _verbatim(prepared: Prepared) -> Draft:
    """Their body as it is."""
    members = {name: value for name, value in prepared.body.items() if name != "token_ids"}
    params = prepared.sampling_params
    return Draft(members, ("token_ids",), params["logprobs"], params.get(_START) or 0, model=members["model"])


def _members(draft: Draft, call: Call) -> dict[str, Any]:
    """The body with its ids, for a client that takes no bytes."""
    members = dict(draft.members)
    inner = members
    for name in draft.ids_at[:-1]:
        inner[name] = inner = dict(inner.get(name) or {})
    inner[draft.ids_at[-1]] = list(call.prompt)
    return members
