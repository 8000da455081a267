"""Scoring: the log-probabilities that an engine gives to tokens sampled elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamo_tito._native import Body, decode_prompt_logprobs
from dynamo_tito._requests import (
    CALL_KEYWORDS,
    PromptIds,
    Request,
    check_scored_at,
    checked_score,
    checked_temperature,
    dialect,
    make_call,
    score_draft,
    score_params,
    score_rows_from,
)
from dynamo_tito._requests.call import checked_integer

from .caller import Caller
from .decoding import Decoding
from .keeping import keeping
from .watch import begins, broke_off, missing_in

if TYPE_CHECKING:
    from dynamo_tito._errors import TitoError
    from dynamo_tito._types import PromptLogprobs

    from .steps import Steps


@dataclass(frozen=True, slots=True)
class Scoring:
    """One sequence to be scored from ``start`` on, its logits divided by ``temperature``; checked but for its ids."""

    request: Request
    decoding: Decoding
    start: int
    temperature: float

    def __call__(self, content: Body | bytes) -> PromptLogprobs:
        """Decode the answer."""
        scores = decode_prompt_logprobs(content, **self._arguments())
        if self.temperature != 1:
            check_scored_at(self.temperature, bytes(content))  # decoded above, so that it is a document
        return scores

    def facts(self) -> dict[str, Any]:
        """How the answer is decoded, as data for :func:`dynamo_tito._client.refused.replay`."""
        return {"call": "score", "arguments": self._arguments(), "temperature": self.temperature}

    def _arguments(self) -> dict[str, Any]:
        return {
            "wire": self.request.spec.wire,
            "prompt_token_ids": self.request.call.prompt,
            "start": self.start,
            "missing_logprob": self.decoding.missing_logprob,
            "logprobs_dtype": self.decoding.logprobs_dtype,
            "limits": self.decoding.limits,
        }


def score(caller: Caller, scoring: Scoring, deadline: float | None) -> Steps[PromptLogprobs]:
    """The steps of one call."""
    steps = _watched(caller, scoring, deadline)
    return steps if caller.keeper is None else keeping(steps, caller.keeper, lambda: scoring)


def _watched(caller: Caller, scoring: Scoring, deadline: float | None) -> Steps[PromptLogprobs]:
    record = begins(caller, "score", scoring.request)
    try:
        scores = yield from caller.sample(scoring.request, scoring, deadline, record)
    except BaseException as error:
        if record is not None:
            broke_off(record, error, deadline)
        raise
    if record is not None:
        # Position 0 has no past.
        record.scored(missing_in(scores.logprobs[max(scoring.start, 1) :]) if caller.may_miss else 0)
    return scores


def make_scoring(caller: Caller, token_ids: PromptIds, start: int, options: Mapping[str, Any]) -> Scoring:
    """Check the arguments of ``score``; ``options`` are all of :class:`ScoreManyOptions`."""
    route, top_k = options["transport"] or caller.transport, options["top_k"]
    spec = dialect(route)
    call = make_call(
        token_ids,
        model=caller.model,
        sampling_defaults=caller.sampling_defaults,
        ids_name="token_ids",
        sampling_params=score_params(route, top_k),
        **CALL_KEYWORDS.among(options),
    )
    start, top_k = checked_score(start, top_k, call.prompt_len)
    temperature = checked_temperature(route, options["temperature"], options["extra_body"])
    call = dataclasses.replace(call, routed_experts_prompt_start=score_rows_from(route, call.prompt_len))
    headers = caller.headers(spec, call, options["extra_headers"])
    draft = score_draft(route, spec.draft(call), start=start, top_k=top_k, temperature=temperature)
    return Scoring(Request(spec, call, draft, headers), caller.decoding, start, temperature)


def make_scorings(
    caller: Caller, sequences: Iterable[PromptIds], start: int | Sequence[int], options: Mapping[str, Any]
) -> list[Scoring]:
    """Check every sequence, ids included, before the first is sent."""
    ids = list(sequences)
    starts: list[Any] = [start] * len(ids) if isinstance(start, (int, np.integer)) else list(start)
    if len(starts) != len(ids):
        raise ValueError(f"{len(starts)} starts for {len(ids)} sequences")
    scorings = []
    for number, (one, begin) in enumerate(zip(ids, starts, strict=True)):
        try:
            scoring = make_scoring(caller, one, begin, options)
            scoring.request.encode()
        except (TypeError, ValueError, NotImplementedError) as error:
            error.add_note(f"in sequences[{number}]")
            raise
        scorings.append(scoring)
    return scorings


def checked_concurrency(concurrency: int) -> int:
    """Sequences in flight; ValueError unless positive."""
    if checked_integer("concurrency", concurrency) < 1:
        raise ValueError("concurrency must be at least 1")
    return concurrency


def without_tracebacks(error: TitoError) -> TitoError:
    """The error, its causes and contexts without tracebacks, whose frames hold bodies of request and answer."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
