"""One completion: from the arguments of ``generate`` to the decoded answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynamo_tito._config import Limits
from dynamo_tito._errors import RoutedExpertsError, TitoError, raise_without_cycle
from dynamo_tito._logprobs_report import LogprobsChecks, refuse_logprobs
from dynamo_tito._native import Body, decode
from dynamo_tito._requests import CALL_KEYWORDS, Call, Draft, PromptIds, dialect, make_call
from dynamo_tito._requests.call import wire_start
from dynamo_tito._routing_report import RoutingChecks, refuse_findings

from .caller import Caller, Request

if TYPE_CHECKING:
    from dynamo_tito._types import Completion, ExpertsMode, FinalRow, MissingLogprob, Wire

    from .steps import Steps


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a client decodes: arguments of :func:`dynamo_tito.decode`, and the strict checks."""

    num_layers: int | None = None
    top_k: int | None = None
    experts: ExpertsMode = "int32"
    missing_logprob: MissingLogprob = "raise"
    require_routed_experts: bool = False
    final_row: FinalRow = "omitted"
    strict_routing: RoutingChecks | None = None
    strict_logprobs: LogprobsChecks | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def bare_experts(self) -> bool:
        """Whether routed experts without a shape (SGLang's) can be read."""
        return self.num_layers is not None and self.top_k is not None and self.experts != "skip"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is decoded.

    Attributes:
        wire: the format of the answer.
        call: what was asked.
        draft: the request's body.
        decoding: the client's choices.
    """

    wire: Wire
    call: Call = field(repr=False)
    draft: Draft = field(repr=False)
    decoding: Decoding

    def __call__(self, content: Body | bytes) -> Completion:
        """Decode, check, and drop rows of routed experts that were not asked for."""
        choices, call, draft = self.decoding, self.call, self.draft
        start = wire_start(call, draft.prompt_start)
        try:
            completion = decode(
                content,
                wire=self.wire,
                prompt_len=call.prompt_len,
                prompt_token_ids=call.prompt,
                routed_experts_prompt_start=start,
                num_layers=choices.num_layers,
                top_k=choices.top_k,
                experts=choices.experts,
                require_logprobs=bool(draft.logprobs),
                require_routed_experts=choices.require_routed_experts,
                missing_logprob=choices.missing_logprob,
                final_row=choices.final_row,
                limits=choices.limits,
            )
        except ValueError as error:
            if isinstance(error, TitoError) or (isinstance(content, Body) and content.closed):
                raise
            # decode() takes rows without a shape for a wrong argument; here the server sent them unasked.
            raise_without_cycle(RoutedExpertsError(str(error), kind="needs_num_layers"))
        refuse_logprobs(completion, choices.strict_logprobs)
        experts = completion.routed_experts
        if experts is None:
            return completion
        if choices.strict_routing is not None:
            refuse_findings(experts.array, choices.strict_routing)
        surplus = draft.prompt_start - start
        if not surplus:
            return completion
        rest = dataclasses.replace(experts, array=experts.array[surplus:], start=experts.start + surplus)
        return dataclasses.replace(completion, routed_experts=rest)


def generate(
    caller: Caller, prompt_ids: PromptIds, options: Mapping[str, Any], deadline: float | None
) -> Steps[Completion]:
    """The steps of one call; ``options`` are all of :class:`GenerateOptions`."""
    spec = dialect(options["transport"] or caller.transport)
    decoding = caller.decoding
    call = make_call(
        prompt_ids,
        model=caller.model,
        routed_experts=decoding.bare_experts,
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
    reading = Reading(spec.wire, call, draft, decoding)
    return (yield from caller.sample(Request(spec, call, draft, headers), reading, deadline=deadline))
