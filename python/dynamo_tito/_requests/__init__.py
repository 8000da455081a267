"""Request bodies, as pure functions from a call to bytes. One file per route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Unpack

from . import dynamo, prime_chat, sglang, sglang_chat, vllm_completions, vllm_generate
from .abort import Abort, aborts
from .call import Call, CallOptions, Draft, PromptIds, SharedOptions, make_call
from .encode import encode
from .keywords import Keywords
from .score import check_scored_at, checked_score, checked_temperature, score_draft, score_params, score_rows_from

if TYPE_CHECKING:
    from dynamo_tito._config import RendererTransport, SamplingDefaults
    from dynamo_tito._types import Wire

__all__ = [
    "CALL_KEYWORDS",
    "DIALECTS",
    "Abort",
    "Call",
    "CallOptions",
    "Dialect",
    "Draft",
    "Keywords",
    "PromptIds",
    "Request",
    "SharedOptions",
    "aborts",
    "check_scored_at",
    "checked_score",
    "checked_temperature",
    "dialect",
    "encode",
    "encode_request",
    "make_call",
    "score_draft",
    "score_params",
    "score_rows_from",
]


class DraftFunction(Protocol):
    """Makes a body of a call; without ``send_start`` the server is not asked to trim routed experts."""

    def __call__(self, call: Call, *, send_start: bool = True) -> Draft: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """The requests of one transport.

    Attributes:
        transport: its name.
        path: below the server's root.
        wire: what its answers are decoded as.
        draft: the body.
        headers: session, data-parallel rank and request id, where they travel in headers.
        id_at: the header, or the member of the body, that names the request to the engine.
        may_refuse_start: whether servers are known that answer ``routed_experts_prompt_start`` with a 400.
        streams_routing: whether its streams bring routed experts.
        reserved: tokens of the context that a prompt must leave free. vLLM, and Dynamo with it, must sample one.
            SGLang 0.5.23 keeps seven (``tp_worker.py``, ``managers/utils.py``), and cuts longer prompts without a word
            under ``--allow-auto-truncate``.
    """

    transport: RendererTransport
    path: str
    wire: Wire
    draft: DraftFunction
    headers: Callable[[Call], dict[str, str]]
    id_at: str = "x-request-id"
    may_refuse_start: bool = False
    streams_routing: bool = True
    reserved: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its route, the call, the body without the ids, and the headers."""

    spec: Dialect
    call: Call = field(repr=False)
    draft: Draft = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def engine_id(self) -> str | None:
        """The id that the engine gives the request, where the request names one."""
        name, members = self.spec.id_at, self.draft.members
        found = self.headers.get(name) or members.get(name) or members.get("request_id")
        return found if isinstance(found, str) else None

    def encode(self) -> bytes:
        """The body; a ValueError for a number that is no token id."""
        return encode(self.draft, self.call, self.spec.transport)


_DIALECTS = (
    Dialect("vllm_generate", vllm_generate.PATH, "vllm_generate", vllm_generate.draft, vllm_generate.headers),
    Dialect(
        "dynamo_chat",
        dynamo.CHAT_PATH,
        "dynamo_chat",
        dynamo.draft_chat,
        dynamo.headers,
        dynamo.ID,
        may_refuse_start=True,
    ),
    Dialect(
        "dynamo_completions",
        dynamo.COMPLETIONS_PATH,
        "dynamo_completions",
        dynamo.draft_completions,
        dynamo.headers,
        dynamo.ID,
        may_refuse_start=True,
    ),
    Dialect(
        "prime_chat_tokens", prime_chat.PATH, "vllm_chat", prime_chat.draft, prime_chat.headers, streams_routing=False
    ),
    Dialect(
        "vllm_completions",
        vllm_completions.PATH,
        "vllm_completions",
        vllm_completions.draft,
        vllm_completions.headers,
        streams_routing=False,
    ),
    Dialect(
        "sglang_chat",
        sglang_chat.PATH,
        "sglang_chat",
        sglang_chat.draft,
        sglang_chat.headers,
        "rid",
        streams_routing=False,
        reserved=7,
    ),
    Dialect("sglang_generate", sglang.PATH, "sglang_generate", sglang.draft, sglang.headers, "rid", reserved=7),
)
DIALECTS: Mapping[str, Dialect] = {dialect.transport: dialect for dialect in _DIALECTS}


def dialect(transport: str) -> Dialect:
    """The dialect of a transport, or a ValueError that lists them."""
    try:
        return DIALECTS[transport]
    except (KeyError, TypeError):
        hint = "; vllm_chat takes no token ids, it can only be decoded" if transport == "vllm_chat" else ""
        raise ValueError(f"transport must be one of {', '.join(DIALECTS)}, not {transport!r}{hint}") from None


CALL_KEYWORDS = Keywords(CallOptions, stop_token_ids=())


@CALL_KEYWORDS.shown_by
def encode_request(
    transport: RendererTransport,
    *,
    model: str | None,
    prompt_ids: PromptIds,
    return_routed_experts: bool = False,
    sampling_defaults: SamplingDefaults = "neutral",
    stream: bool = False,
    **options: Unpack[CallOptions],
) -> bytes:
    """The request body that the clients send: compact JSON in UTF-8.

    Session, data-parallel rank and request id are part of the body on SGLang's routes only; elsewhere they are
    headers.

    Args:
        transport: the route.
        model: the model's name; None where the server needs none, and on ``sglang_generate``, which has no field for
            it: an adapter is named by ``extra_body={"lora_path": name}`` there.
        prompt_ids: token ids [P], a list or an int32 or int64 array, each in [0, 2^31-1].
        return_routed_experts: ask SGLang, or for an artifact of Dynamo's, for routed experts; asking for a start does
            so as well.
        sampling_defaults: ``"neutral"`` fills what ``sampling_params`` leave open with temperature 1, top_p 1, top_k
            off, min_p 0 and neutral penalties; ``"model"`` leaves it to the server.
        stream: ask for a stream of events instead of one document.
        **options: as for :meth:`dynamo_tito.AsyncTitoClient.generate`; see :class:`dynamo_tito.GenerateOptions`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument that the server would refuse, or take and ignore.
        NotImplementedError: features or an artifact on a transport that carries none.
    """
    call = make_call(
        prompt_ids,
        model=model,
        routed_experts=return_routed_experts,
        sampling_defaults=sampling_defaults,
        stream=stream,
        **CALL_KEYWORDS.complete(encode_request, options),
    )
    draft = dialect(transport).draft(call)
    if draft.adapter_member is not None:
        raise ValueError(
            f"model cannot be given on {transport}, which names none: give None for the base model, and an adapter as "
            f"extra_body={{{draft.adapter_member!r}: name}}"
        )
    return encode(draft, call, transport)
