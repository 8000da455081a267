"""How answers are decoded: the client's choices, and what one call adds to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_tito._config import Limits
from dynamo_tito._errors import RoutedExpertsError, TitoError, raise_without_cycle
from dynamo_tito._logprobs_report import LogprobsChecks, refuse_logprobs
from dynamo_tito._native import Body, StreamDecoder, decode
from dynamo_tito._requests import Request
from dynamo_tito._requests.call import wire_start
from dynamo_tito._requests.unread import refuse_unanswered
from dynamo_tito._routing_report import RoutingChecks, refuse_findings
from dynamo_tito._types import IndexerTopk, RoutedExperts

if TYPE_CHECKING:
    from dynamo_tito._types import Completion, ExpertsMode, FinalRow, LogprobsDtype, MissingLogprob


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a client decodes: arguments of :func:`dynamo_tito.decode`, and the strict checks."""

    num_layers: int | None = None
    top_k: int | None = None
    num_indexer_layers: int | None = None
    index_topk: int | None = None
    experts: ExpertsMode = "int32"
    missing_logprob: MissingLogprob = "raise"
    logprobs_dtype: LogprobsDtype = "float64"
    require_routed_experts: bool = False
    final_row: FinalRow = "omitted"
    strict_routing: RoutingChecks | None = None
    strict_logprobs: LogprobsChecks | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def bare_experts(self) -> bool:
        """Whether routed experts without a shape (SGLang's) can be read."""
        return self.num_layers is not None and self.top_k is not None and self.experts != "skip"

    @property
    def bare_indexer(self) -> bool:
        """Whether the rows of an indexer without a shape (SGLang's) can be read."""
        return self.num_indexer_layers is not None and self.index_topk is not None and self.experts != "skip"


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answer of one request is decoded."""

    request: Request = field(repr=False)
    decoding: Decoding

    def __call__(self, content: Body | bytes) -> Completion:
        """Decode, check, and drop rows of routed experts that were not asked for."""
        return self.checked(decode_whole(content, self._arguments()))

    def facts(self) -> dict[str, Any]:
        """How the answer is decoded, as data for :func:`dynamo_tito._client.refused.replay`."""
        return {
            "call": "stream" if self.request.call.stream else "generate",
            "arguments": self._arguments(),
            "strict_logprobs": self.decoding.strict_logprobs,
            "strict_routing": self.decoding.strict_routing,
        }

    def decoder(self, *, deltas: bool) -> StreamDecoder:
        """What decodes the answer if it is a stream; its completion is to be :meth:`checked`."""
        return StreamDecoder(**self._arguments(), deltas=deltas)

    def checked(self, completion: Completion) -> Completion:
        """The strict checks, and without the rows of routed experts that were not asked for."""
        check_strictly(completion, self.decoding.strict_logprobs, self.decoding.strict_routing)
        refuse_unanswered(self.request.draft.members, completion)
        surplus = self.request.draft.prompt_start - self._start
        experts, indexer = completion.routed_experts, completion.indexer_topk
        if not surplus or (experts is None and indexer is None):
            return completion
        return dataclasses.replace(
            completion,
            routed_experts=experts
            and dataclasses.replace(_without(experts, surplus), trimmed=experts.trimmed + surplus),
            indexer_topk=indexer and _without(indexer, surplus),
        )

    @property
    def _start(self) -> int:
        return wire_start(self.request.call, self.request.draft.prompt_start)

    def _arguments(self) -> dict[str, Any]:
        choices, call = self.decoding, self.request.call
        return {
            "wire": self.request.spec.wire,
            "prompt_len": call.prompt_len,
            "prompt_token_ids": call.prompt,
            "routed_experts_prompt_start": self._start,
            "num_layers": choices.num_layers,
            "top_k": choices.top_k,
            "num_indexer_layers": choices.num_indexer_layers,
            "index_topk": choices.index_topk,
            "experts": choices.experts,
            "require_logprobs": bool(self.request.draft.logprobs),
            # Of an artifact they were asked for by name.
            "require_routed_experts": choices.require_routed_experts or (bool(call.artifact) and call.routed_experts),
            "missing_logprob": choices.missing_logprob,
            "logprobs_dtype": choices.logprobs_dtype,
            "final_row": choices.final_row,
            "limits": choices.limits,
        }


def decode_whole(content: Body | bytes, arguments: Mapping[str, Any]) -> Completion:
    """:func:`dynamo_tito.decode` of what a server sent, so that a refusal is always a :class:`TitoError`."""
    try:
        return decode(content, **arguments)
    except ValueError as error:
        if isinstance(error, TitoError) or (isinstance(content, Body) and content.closed):
            raise
        raise_without_cycle(_of_rows(error))


def check_strictly(completion: Completion, logprobs: LogprobsChecks | None, routing: RoutingChecks | None) -> None:
    """The checks that a client was asked for, beyond those of decoding."""
    refuse_logprobs(completion, logprobs)
    if completion.routed_experts is not None and routing is not None:
        refuse_findings(completion.routed_experts.array, routing)


_Rows = TypeVar("_Rows", RoutedExperts, IndexerTopk)


def _without(rows: _Rows, surplus: int) -> _Rows:
    """The rows behind the first ones."""
    return dataclasses.replace(rows, array=rows.array[surplus:], start=rows.start + surplus)


def _of_rows(error: ValueError) -> RoutedExpertsError:
    """The core takes rows without a shape for a wrong argument; here the server sent them unasked."""
    return RoutedExpertsError(str(error), kind="needs_num_layers")
