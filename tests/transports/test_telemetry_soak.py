"""A soak with random faults: every counter equals what the embedded engines recorded, and the SDK's own histograms."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

import dynamo_tito as tito
from dynamo_tito import RetryPolicy, simulator
from dynamo_tito.simulator import Backend, Fault, Record

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from support.metering import OURS, Meters, settled

GENAI = "gen_ai.client"
RETRIES = RetryPolicy(attempts=8, initial=0.0, maximum=0.0, retry_after=0.0)
PROMPT, TOKENS, START = 20, 12, 7
CALLS, AT_ONCE, RATE = 110, 8, 0.4
WHOLE, STREAMED, KEPT = range(3)


class Route(NamedTuple):
    """A server and the way to ask it; who leaves out rows that were not asked for; what the answers have."""

    backend: Backend
    transport: tito.RendererTransport
    trims: str
    names_weights: Literal["never", "at the end", "always"] = "never"
    streams: bool = True


ROUTES = (
    Route("dynamo", "dynamo_chat", "client"),
    Route("dynamo", "dynamo_completions", "client"),
    Route("dynamo", "vllm_generate", "server", streams=False),
    Route("vllm", "vllm_generate", "server", names_weights="at the end"),
    Route("prime", "vllm_generate", "server"),
    Route("prime", "prime_chat_tokens", "server", streams=False),
    Route("sglang", "sglang_generate", "server", names_weights="always"),
)

UNREADABLE = ("wrong_rows", "positive_logprobs", "error_body")
FAULTS = (
    Fault(kind="status", status=429),
    Fault(kind="not_ready"),
    Fault(kind="status", status=400),
    Fault(kind="status", status=500),
    Fault(kind="delay", seconds=0.002),
    Fault(kind="abort", at=5),
    Fault(kind="finish", message="stop"),
    Fault(kind="wrong_rows", by=1),
    Fault(kind="positive_logprobs"),
    Fault(kind="error_body"),
    Fault(kind="reset", phase="request"),
    Fault(kind="truncate", phase="headers", at=0.5),
    Fault(kind="truncate", at=0.7),
)


@dataclass
class Told:
    """What the callers of one route were told."""

    calls: int = 0
    errors: list[BaseException] = field(default_factory=list)
    completions: list[tito.Completion] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: tito.Completion | tito.TitoError) -> None:
        with self.lock:
            self.calls += 1
            if isinstance(outcome, tito.Completion):
                self.completions.append(outcome)
            else:
                self.errors.append(outcome)


def keeps(record: Record, route: Route) -> bool:
    """Whether its caller wants what came of it."""
    return route.streams and int(record.key.removeprefix("call-")) % 3 == KEPT


def arguments(number: int, route: Route, prompts: random.Random) -> dict[str, Any]:
    """Where the route has streams, every third call is one, and every third one of which what came is kept."""
    keep = route.streams and number % 3 == KEPT
    asked = {"on_interrupt": "return"} if keep else {"stream": route.streams and number % 3 == STREAMED}
    return {
        "prompt_ids": [prompts.randrange(1_000) for _ in range(PROMPT)],
        "sampling_params": {"max_tokens": TOKENS},
        "request_id": f"call-{number}",
        "routed_experts_prompt_start": START,
        **asked,
    }


async def ask_many(url: str, route: Route, told: Told, numbers: range) -> None:
    waiting, prompts = iter(numbers), random.Random(numbers.start)
    async with tito.AsyncTitoClient(url, transport=route.transport, **options()) as client:

        async def work() -> None:
            for number in waiting:
                try:
                    told.add(await client.generate(**arguments(number, route, prompts)))
                except tito.TitoError as error:
                    told.add(error)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def ask_blocking(url: str, route: Route, told: Told, numbers: range) -> None:
    prompts = random.Random(numbers.start)
    with tito.TitoClient(url, transport=route.transport, **options()) as client:

        def ask(given: dict[str, Any]) -> None:
            try:
                told.add(client.generate(**given))
            except tito.TitoError as error:
                told.add(error)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ask, [arguments(number, route, prompts) for number in numbers]))


def options() -> dict[str, Any]:
    return {
        "model": "tito-model",
        "num_layers": 4,
        "top_k": 2,
        "preflight": False,
        "retries": RETRIES,
        "trust_env": False,
    }


class Expected:
    """What the engine's record says of the calls of one route."""

    def __init__(self, records: list[Record], route: Route) -> None:
        self.calls = defaultdict[str, list[Record]](list)
        for record in records:
            self.calls[record.key].append(record)
        self.records = records
        self.seen = {record.number: None if lost(record) else record.status for record in records}
        self.broken = [record for record in records if lost(record) or fault_of(record) == "truncate"]
        self.right = [
            record
            for record in records
            if record.status == 200 and fault_of(record) in ("", "delay", "finish", "abort")
        ]
        # Errors that the server told with status 200; some servers tell all errors of a stream so.
        told = ("error_body", "status", "not_ready")
        self.told = [record for record in records if record.status == 200 and fault_of(record) in told]
        self.kept_broken = [record for record in self.broken if keeps(record, route)]
        self.kept = self.kept_broken + [record for record in self.told if keeps(record, route)]

    def refused(self, kind: str) -> int:
        return sum(fault_of(record) == kind for record in self.records)


def fault_of(record: Record) -> str:
    return "" if record.fault is None else record.fault.kind


def lost(record: Record) -> bool:
    """Whether the client has no answer of it: the head is missing, or the rest of a whole one."""
    fault = record.fault
    if fault is None or fault.kind not in ("reset", "truncate"):
        return False
    return fault.when != "body" or not record.asked_stream


@pytest.mark.parametrize("each", [False, True], ids=["counters", "each"])
@pytest.mark.parametrize("route", ROUTES, ids=[f"{route.backend}-{route.transport}" for route in ROUTES])
def test_counters_equal_the_record_of_a_soak(route: Route, each: bool) -> None:
    told = Told()
    settings = {"prompt_start": "ignore", "seed": ROUTES.index(route), "fault_rate": RATE, "random_faults": FAULTS}
    with (
        contextlib.closing(Meters(each=each)) as meters,
        simulator.running(backend=route.backend, **settings) as engine,
    ):
        engine.admin.load("step_1")
        asyncio.run(ask_many(engine.url, route, told, range(CALLS)))
        settled(engine)
        engine.admin.load("step_2")
        ask_blocking(engine.url, route, told, range(CALLS, 2 * CALLS))
        expected = Expected(settled(engine), route)
        found = Found(meters)
        spans = meters.spans
    assert len(expected.calls) == told.calls == 2 * CALLS
    assert {fault_of(record) for record in expected.records} == {"", *(fault.kind for fault in FAULTS)}
    check_requests(found, expected)
    check_calls(found, expected, told)
    check_completions(found, expected, told, route)
    assert found.one("active_calls") == 0
    if each:
        check_histograms(found)
        assert len(spans) == told.calls
        failed = sum(span.status.status_code.name == "ERROR" for span in spans)
        assert failed == len(told.errors) + len(expected.kept_broken)
    else:
        assert not spans
        assert not [name for name in found.points if name.startswith(GENAI)]


class Found:
    """What was counted."""

    def __init__(self, meters: Meters) -> None:
        self.points = meters.points()

    def one(self, name: str, **wanted: str) -> float:
        """The sum over the points with these attributes."""
        return sum(self.by(name, "", **wanted).values())

    def by(self, name: str, attribute: str, **wanted: str) -> Counter[Any]:
        """The sums by one more attribute, those that are zero left out."""
        found: Counter[Any] = Counter()
        for facts, point in self.points[f"{OURS}.{name}"]:
            if all(facts.get(key.replace("__", ".")) == value for key, value in wanted.items()):
                found[facts.get(attribute)] += point.value
        return +found


def check_requests(found: Found, expected: Expected) -> None:
    records = expected.records
    assert found.by("requests", "http.response.status_code") == Counter(expected.seen.values())
    assert found.one("sent") == sum(len(record.body) for record in records)
    # A stream that cannot be read is left, maybe before its end.
    left = [record for record in records if record.asked_stream and fault_of(record) in UNREADABLE]
    sizes = {True: 0, False: 0}
    for record in records:
        sizes[record in left] += record.sent if expected.seen[record.number] else 0
    assert sizes[False] <= found.one("received") <= sum(sizes.values())
    again = [record for call in expected.calls.values() for record in call[:-1]]
    assert {fault_of(record) for record in again} <= {"status", "not_ready"}
    assert found.by("retries", "error.type") == Counter(str(record.status) for record in again)


def check_calls(found: Found, expected: Expected, told: Told) -> None:
    ended = Counter(type(error).__name__ for error in told.errors)
    ended["TransportError"] += len(expected.kept_broken)
    assert ended["TransportError"] == len(expected.broken)
    assert found.by("calls", "error.type") == +ended + Counter({None: told.calls - ended.total()})
    assert told.calls - ended.total() == len(expected.right)
    assert found.by("interrupted", "error.type") == Counter({"TransportError": len(expected.broken)})
    assert found.one("kept") == len(expected.kept)
    refusals = found.by("refusals", "dynamo_tito.refusal.kind")
    assert refusals.pop("rows", 0) + refusals.pop("trim", 0) == expected.refused("wrong_rows")
    assert refusals.pop("positive_logprob") == expected.refused("positive_logprobs")
    classes = Counter(
        type(error).__name__ for error in told.errors if isinstance(error, tito.ServerError) and error.status is None
    )
    assert refusals == classes
    assert refusals.total() == len(expected.told)


def check_completions(found: Found, expected: Expected, told: Told, route: Route) -> None:
    tokens = sum(len(record.samples[0].token_ids) for record in expected.right)
    tokens += sum(sum(record.tokens_sent) for record in expected.kept)
    completions = told.completions + [error.completion for error in told.errors if hasattr(error, "completion")]
    assert found.one("tokens", gen_ai__token__type="output") == tokens
    assert sum(len(completion.token_ids) for completion in completions) == tokens
    answered = sum(any(expected.seen[record.number] == 200 for record in call) for call in expected.calls.values())
    assert found.one("tokens", gen_ai__token__type="input") == PROMPT * answered
    assert found.one("tokens.bucket", gen_ai__token__type="input", le="+Inf") == answered
    assert found.one("tokens.bucket", gen_ai__token__type="output", le="+Inf") == len(completions)
    assert found.by("trimmed_rows", "dynamo_tito.trimmed_by") == Counter({route.trims: START * len(expected.right)})
    assert found.one("missing_logprobs") == 0
    versions: Counter[str] = Counter()
    for record in expected.right if route.names_weights != "never" else ():
        versions[record.samples[0].version] += len(record.samples[0].token_ids)
    for record in expected.kept if route.names_weights == "always" else ():
        if record.samples:
            versions[record.samples[0].version] += sum(record.tokens_sent)
    assert found.by("sampled_tokens", "dynamo_tito.weight_version") == +versions
    assert set(versions) == (set() if route.names_weights == "never" else {"step_1", "step_2"})
    timed = [completion.timing.first_token for completion in completions if completion.timing is not None]
    first = [seconds for seconds in timed if seconds is not None]
    assert bool(first) == route.streams
    assert found.one("first_token.bucket", le="+Inf") == len(first)
    assert found.one("first_token") == pytest.approx(sum(first))
    assert 0 < found.one("decode.time") < found.one("duration")


def check_histograms(found: Found) -> None:
    """The SDK's own histograms hold the same values."""
    pairs = {
        "operation.duration": "duration",
        "operation.time_to_first_chunk": "first_token",
        "token.usage": "tokens",
    }
    for theirs, ours in pairs.items():
        sums = {frozenset(facts.items()): point.value for facts, point in found.points[f"{OURS}.{ours}"]}
        buckets = defaultdict[frozenset[Any], dict[str, int]](dict)
        for facts, point in found.points[f"{OURS}.{ours}.bucket"]:
            bound = facts.pop("le")
            buckets[frozenset(facts.items())][bound] = point.value
        points = {frozenset(facts.items()): point for facts, point in found.points[f"{GENAI}.{theirs}"]}
        assert {key for key, value in sums.items() if value} == set(points)
        for key, point in points.items():
            assert point.sum == pytest.approx(sums[key])
            assert list(buckets[key]) == [*map(str, point.explicit_bounds), "+Inf"]
            assert list(buckets[key].values()) == list(itertools.accumulate(point.bucket_counts))
