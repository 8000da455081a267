"""The counters, and how each is read from the sums of the calls to one target."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from dynamo_tito._observe import Target

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68, 1310.72)
TOKENS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)

# Sampling from token ids is a completion; the conventions know no name for scoring.
_OPERATIONS = {"generate": "text_completion", "score": "score"}

Sums: TypeAlias = Mapping[str, Any]
"""What :meth:`dynamo_tito._core.CallSums.read` returns."""

Reading: TypeAlias = tuple[dict[str, Any], float]
"""Attributes beside those of the target, and a value."""


@functools.lru_cache(maxsize=1_024)
def facts_of(target: Target) -> Mapping[str, Any]:
    """The attributes of a target."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS[target.operation],
        "gen_ai.provider.name": target.provider,
        "server.address": target.address,
        "dynamo_tito.wire": target.wire,
    }
    if target.model is not None:
        found["gen_ai.request.model"] = target.model
    if target.port is not None:
        found["server.port"] = target.port
    return found


class Metric(NamedTuple):
    """One counter: what it is called, and how it is read."""

    name: str
    unit: str
    text: str
    read: Callable[[Sums], Iterable[Reading]]


def _one(name: str) -> Callable[[Sums], Iterable[Reading]]:
    return lambda sums: [({}, sums[name])]


def _each(
    name: str, attribute: str, value: Callable[[Any], float] = lambda value: value
) -> Callable[[Sums], Iterable[Reading]]:
    """One reading for each key, which is an attribute unless it is None."""
    return lambda sums: [({} if key is None else {attribute: key}, value(found)) for key, found in sums[name].items()]


def _buckets(name: str, attribute: str, bounds: tuple[float, ...]) -> Callable[[Sums], Iterable[Reading]]:
    """How many values were not above each bound, which is written as Prometheus does."""
    labels = [*map(str, bounds), "+Inf"]

    def read(sums: Sums) -> Iterator[Reading]:
        for key, found in sums[name].items():
            more = {} if key is None else {attribute: key}
            for bound, count in zip(labels, accumulate(found["counts"]), strict=True):
                yield {**more, "le": bound}, count

    return read


_CAUSE, _TYPE = "error.type", "gen_ai.token.type"

COUNTERS = (
    Metric("calls", "{call}", "Calls that ended", _each("durations", _CAUSE, lambda found: sum(found["counts"]))),
    Metric(
        "duration", "s", "Calls, from their begin to their end", _each("durations", _CAUSE, lambda found: found["sum"])
    ),
    Metric("duration.bucket", "{call}", "Calls that took le seconds or less", _buckets("durations", _CAUSE, SECONDS)),
    Metric(
        "first_token",
        "s",
        "Streams, from the request to the first token",
        lambda sums: [({}, sums["first_token"]["sum"])],
    ),
    Metric(
        "first_token.bucket",
        "{call}",
        "Streams of which the first token came within le seconds",
        lambda sums: _buckets("found", "", SECONDS)({"found": {None: sums["first_token"]}}),
    ),
    Metric(
        "tokens",
        "{token}",
        "Tokens of prompts and completions",
        _each("tokens", _TYPE, lambda found: int(found["sum"])),
    ),
    Metric(
        "tokens.bucket", "{call}", "Prompts and completions of le tokens or less", _buckets("tokens", _TYPE, TOKENS)
    ),
    Metric("requests", "{request}", "Requests that were sent", _each("requests", "http.response.status_code")),
    Metric("retries", "{request}", "Requests that were sent again", _each("retries", _CAUSE)),
    Metric("sent", "By", "Bodies of requests", _one("sent")),
    Metric("received", "By", "Bodies of answers, decompressed", _one("received")),
    Metric("decode.time", "s", "Decoding of answers", _one("decoding")),
    Metric("refusals", "{answer}", "Answers that could not be read", _each("refusals", "dynamo_tito.refusal.kind")),
    Metric(
        "missing_logprobs",
        "{token}",
        "Tokens of which the server said that it has no log-probability",
        _one("missing"),
    ),
    Metric(
        "trimmed_rows",
        "{row}",
        "Rows of routed experts in front of those that were asked for",
        _each("trimmed", "dynamo_tito.trimmed_by"),
    ),
    Metric(
        "sampled_tokens",
        "{token}",
        "Tokens by the weight version that sampled them",
        _each("versions", "dynamo_tito.weight_version"),
    ),
    Metric("interrupted", "{call}", "Calls that were broken off after they were sent", _each("interrupted", _CAUSE)),
    Metric("kept", "{call}", "Interrupted calls of which the completion so far was kept", _one("kept")),
)

ACTIVE = Metric("active_calls", "{call}", "Calls under way", _one("active"))
