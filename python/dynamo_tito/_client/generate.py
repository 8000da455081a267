"""One completion: from the arguments of ``generate`` to the steps of the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamo_tito._requests import CALL_KEYWORDS, PromptIds, Request, dialect, make_call

from .caller import Caller
from .decoding import Reading

if TYPE_CHECKING:
    from dynamo_tito._types import Completion

    from .steps import Steps


def generate(
    caller: Caller, prompt_ids: PromptIds, options: Mapping[str, Any], deadline: float | None
) -> Steps[Completion]:
    """The steps of one call; ``options`` are all of :class:`GenerateOptions`."""
    spec = dialect(options["transport"] or caller.transport)
    decoding = caller.decoding
    call = make_call(
        prompt_ids,
        model=caller.model,
        routed_experts=decoding.bare_experts or (options["artifact"] is not None and decoding.experts != "skip"),
        sampling_defaults=caller.sampling_defaults,
        **CALL_KEYWORDS.among(options),
    )
    headers = caller.headers(spec, call, options["extra_headers"])
    draft = spec.draft(call, send_start=not (spec.may_refuse_start and caller.start_refused))
    if draft.choices != 1:
        raise ValueError(f"n is {draft.choices}; a call returns one completion")
    if draft.members.get("return_routed_experts") and not decoding.bare_experts:
        raise ValueError(
            "SGLang sends routed experts without their shape: give the client num_layers and top_k to read them"
        )
    request = Request(spec, call, draft, headers)
    return (yield from caller.sample(request, Reading(request, decoding), deadline))
