"""Calls that are told one by one: spans, and the histograms that the conventions name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamo_tito._native import CallRecord, CallSums

from .metrics import SECONDS, TOKENS, facts_of

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import TracerProvider

    from dynamo_tito._observe import Target
    from dynamo_tito._types import Completion


class Histograms:
    """The three histograms of a client."""

    def __init__(self, meter: Meter) -> None:
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Calls, from their begin to their end",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.first_token = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Streams, from the request to the first token",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of prompts and completions",
            explicit_bucket_boundaries_advisory=TOKENS,
        )

    def completed(self, completion: Completion, facts: Mapping[str, Any]) -> None:
        """A call has a completion."""
        self.tokens.record(len(completion.token_ids), {**facts, "gen_ai.token.type": "output"})
        if completion.timing is not None and completion.timing.first_token is not None:
            self.first_token.record(completion.timing.first_token, facts)


class Spans:
    """The spans of calls."""

    def __init__(self, scope: str, version: str, provider: TracerProvider) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - the extra

        self._trace, self._propagate = trace, propagate
        self._tracer = trace.get_tracer(scope, version, provider)

    def begin(self, name: str, facts: Mapping[str, Any]) -> Any:
        """A span; None unless it is sampled."""
        span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=facts)
        return span if span.is_recording() else None

    def headers(self, span: Any) -> dict[str, str]:
        """Headers that carry its context."""
        found: dict[str, str] = {}
        self._propagate.inject(found, context=self._trace.set_span_in_context(span))
        return {name.lower(): value for name, value in found.items()}

    def end(self, span: Any, facts: Mapping[str, Any], *, failed: bool) -> None:
        """End a span."""
        span.set_attributes({name: value for name, value in facts.items() if value is not None})
        if failed:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()


class WatchedKind:
    """Calls of one target that are told one by one."""

    def __init__(self, sums: CallSums, target: Target, spans: Spans | None, histograms: Histograms | None) -> None:
        self.sums, self.spans, self.histograms = sums, spans, histograms
        self.facts = facts_of(target)
        self.name = f"{self.facts['gen_ai.operation.name']} {target.model or ''}".rstrip()

    def begin(self, prompt_tokens: int) -> CallRecord:
        """A call begins; what notes its steps."""
        span = None if self.spans is None else self.spans.begin(self.name, self.facts)
        if span is None and self.histograms is None:
            return self.sums.begin(prompt_tokens)
        call = WatchedCall(self.sums, prompt_tokens)
        call.watch(self, span)
        return call


class WatchedCall(CallRecord):
    """One call, told when it has ended; counted as others are."""

    def watch(self, kind: WatchedKind, span: Any) -> None:
        """Say to whom it is told."""
        self._kind, self._span = kind, span
        self._refusal: str | None = None
        if kind.spans is not None and span is not None:
            self.headers = kind.spans.headers(span)

    def refused(self, kind: str, /) -> None:
        """Decoding ended in an error of this kind."""
        super().refused(kind)
        self._refusal = kind

    def sampled(self, completion: Completion, start: int, missing: int, /) -> None:
        """The call has a completion, and ends."""
        super().sampled(completion, start, missing)
        self._tell({}, completion)

    def scored(self, missing: int, /) -> None:
        """The call has scores, and ends."""
        super().scored(missing)
        self._tell({})

    def failed(self, error: str, interrupted: bool, /) -> None:  # noqa: FBT001 - as the base has it
        """The call ends in an error."""
        super().failed(error, interrupted)
        self._tell({"error.type": error})

    def kept(self, completion: Completion, start: int, missing: int, /) -> None:
        """The caller gets what came of the call."""
        super().kept(completion, start, missing)
        if self._kind.histograms is not None:
            self._kind.histograms.completed(completion, self._kind.facts)

    def _tell(self, failure: dict[str, str], completion: Completion | None = None) -> None:
        kind = self._kind
        if kind.spans is not None and self._span is not None:
            numbers = {
                "gen_ai.usage.input_tokens": self.prompt_tokens,
                "dynamo_tito.retries": self.retries,
                "dynamo_tito.received": self.received,
                "dynamo_tito.refusal.kind": self._refusal,
            }
            kind.spans.end(self._span, failure | numbers | _described(completion), failed=bool(failure))
        if kind.histograms is not None:
            kind.histograms.duration.record(self.seconds, {**kind.facts, **failure})
            if self.accepted:
                kind.histograms.tokens.record(self.prompt_tokens, {**kind.facts, "gen_ai.token.type": "input"})
            if completion is not None:
                kind.histograms.completed(completion, kind.facts)


def _described(completion: Completion | None) -> dict[str, Any]:
    """The attributes that a completion gives a span."""
    if completion is None:
        return {}
    reason, spans = completion.finish_reason, completion.weight_versions or ()
    return {
        "gen_ai.usage.output_tokens": len(completion.token_ids),
        "gen_ai.response.id": completion.request_id,
        "gen_ai.response.finish_reasons": reason and [reason],
        "gen_ai.response.time_to_first_chunk": completion.timing and completion.timing.first_token,
        "dynamo_tito.weight_version": [*dict.fromkeys(str(span.get("version")) for span in spans)] or None,
    }
