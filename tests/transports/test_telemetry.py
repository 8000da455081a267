"""Every counter equals what the embedded engine recorded, for each client, with faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import RetryPolicy, _observe, simulator
from dynamo_tito.rollout import Rollout
from dynamo_tito.simulator import Engine, Fault, Record
from support.chat import ChatRenderer
from support.driver import Driver, Kind
from support.raw_server import RawServer, reply

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from support.metering import OURS, Meters, settled

PROMPT = list(range(100, 120))
TOKENS = 24
START = 7
NUMBERS = itertools.count()
FAST = RetryPolicy(attempts=4, initial=0.0, maximum=0.0, retry_after=0.0)

Connect = Callable[..., Driver]


@pytest.fixture(params=[False, True], ids=["counters", "each"])
def meters(request: pytest.FixtureRequest) -> Iterator[Meters]:
    with contextlib.closing(Meters(each=request.param)) as made:
        yield made


@pytest.fixture
def engine() -> Iterator[Engine]:
    with simulator.running(backend="dynamo", prompt_start="ignore") as running:
        yield running


@pytest.fixture
def client(kind: Kind, engine: Engine) -> Iterator[Driver]:
    with Driver(kind, engine.url, transport="dynamo_chat", retries=FAST, trust_env=False) as driver:
        yield driver


def ask(client: Driver, **arguments: Any) -> tito.Completion | tito.TitoError:
    arguments.setdefault("sampling_params", {"max_tokens": TOKENS})
    arguments.setdefault("request_id", f"call-{next(NUMBERS)}")
    try:
        return client.generate(PROMPT, **arguments)
    except tito.TitoError as error:
        return error


def fault_of(record: Record) -> str:
    return "" if record.fault is None else record.fault.kind


SCRIPT = [
    Fault(kind="status", status=429),
    Fault(kind="not_ready"),
    Fault(kind="wrong_rows", by=1),
    Fault(kind="positive_logprobs"),
    Fault(kind="error_body"),
    Fault(kind="status", status=500),
    Fault(kind="status", status=400),
    Fault(kind="reset", phase="headers", at=0.5),
    Fault(kind="truncate", phase="headers", at=0.5),
    Fault(kind="abort", at=5),
]


def test_counters_equal_the_record_of_a_run_with_faults(meters: Meters, client: Driver, engine: Engine) -> None:
    outcomes = []
    for fault in SCRIPT:
        engine.inject(fault)
        outcomes.append(ask(client, routed_experts_prompt_start=START))
    outcomes += [ask(client, routed_experts_prompt_start=START) for _ in range(3)]
    records = settled(engine)
    # What the client's connection brought: the others were reset or cut.
    answered = [record for record in records if fault_of(record) not in ("reset", "truncate")]
    right = [record for record in answered if record.samples and fault_of(record) in ("", "abort")]
    errors = [outcome for outcome in outcomes if isinstance(outcome, tito.TitoError)]
    assert len(right) + len(errors) == len(outcomes)

    assert meters.total(f"{OURS}.calls") == len(outcomes)
    failed = Counter(type(error).__name__ for error in errors)
    assert {name: meters.total(f"{OURS}.calls", error__type=name) for name in failed} == failed
    assert meters.total(f"{OURS}.active_calls") == 0
    assert meters.total(f"{OURS}.requests") == len(records)
    assert meters.total(f"{OURS}.sent") == sum(len(record.body) for record in records)
    assert meters.total(f"{OURS}.received") == sum(record.sent for record in answered)
    for status, count in Counter(record.status for record in answered).items():
        assert meters.total(f"{OURS}.requests", http__response__status_code=status) == count
    again = Counter(record.status for record in records if fault_of(record) in ("status", "not_ready"))
    assert meters.total(f"{OURS}.retries", error__type="429") == again[429] == 1
    assert meters.total(f"{OURS}.retries", error__type="503") == again[503] == 1
    assert meters.total(f"{OURS}.retries") == len(records) - len(outcomes) == 2

    sampled = sum(len(record.samples[0].token_ids) for record in right)
    assert meters.total(f"{OURS}.tokens", gen_ai__token__type="output") == sampled
    assert meters.total(f"{OURS}.tokens.bucket", gen_ai__token__type="input", le="+Inf") == sum(
        record.status == 200 for record in answered
    )
    assert meters.total(f"{OURS}.trimmed_rows", dynamo_tito__trimmed_by="client") == START * len(right)
    assert meters.total(f"{OURS}.trimmed_rows", dynamo_tito__trimmed_by="server") == 0
    assert meters.total(f"{OURS}.missing_logprobs") == 0

    refusals = meters.points()[f"{OURS}.refusals"]
    assert {facts["dynamo_tito.refusal.kind"]: point.value for facts, point in refusals} == {
        "rows": 1,
        "positive_logprob": 1,
        "ServerError": 1,
    }
    assert {facts["dynamo_tito.wire"] for facts, _ in refusals} == {"dynamo_chat"}
    assert meters.total(f"{OURS}.interrupted", error__type="TransportError") == len(records) - len(answered)
    assert meters.total(f"{OURS}.decode.time") > 0


def test_rows_that_the_server_trims(meters: Meters, kind: Kind) -> None:
    with (
        simulator.running(backend="vllm") as engine,
        Driver(kind, engine.url, transport="vllm_generate", trust_env=False) as client,
    ):
        ask(client, routed_experts_prompt_start=START)
    assert meters.total(f"{OURS}.trimmed_rows", dynamo_tito__trimmed_by="server") == START
    assert meters.total(f"{OURS}.trimmed_rows", dynamo_tito__trimmed_by="client") == 0


def test_weight_versions(meters: Meters, kind: Kind) -> None:
    with (
        simulator.running(backend="sglang") as engine,
        Driver(kind, engine.url, transport="sglang_generate", num_layers=4, top_k=2, trust_env=False) as client,
    ):
        for version, count in (("a", 2), ("b", 1)):
            engine.admin.load(version)
            for _ in range(count):
                completion = ask(client)
                assert isinstance(completion, tito.Completion)
                assert completion.weight_versions == [{"version": version, "start": 0, "end": TOKENS}]
    assert meters.total(f"{OURS}.sampled_tokens", dynamo_tito__weight_version="a") == 2 * TOKENS
    assert meters.total(f"{OURS}.sampled_tokens", dynamo_tito__weight_version="b") == TOKENS


def test_streams_that_end_break_off_and_are_left(meters: Meters, client: Driver, engine: Engine) -> None:
    deltas, stream = client.stream(PROMPT, sampling_params={"max_tokens": TOKENS})
    assert stream.completion.timing is not None
    first = stream.completion.timing.first_token
    assert meters.total(f"{OURS}.first_token") == pytest.approx(first)
    assert sum(len(delta.token_ids) for delta in deltas) == TOKENS
    assert meters.total(f"{OURS}.received") == settled(engine)[-1].sent

    engine.inject(Fault(kind="reset", at=0.5))
    kept = ask(client, on_interrupt="return")
    assert isinstance(kept, tito.Completion)
    assert 0 < len(kept.token_ids) < TOKENS
    assert meters.total(f"{OURS}.interrupted", error__type="TransportError") == 1
    assert meters.total(f"{OURS}.kept") == 1
    assert meters.total(f"{OURS}.tokens", gen_ai__token__type="output") == TOKENS + len(kept.token_ids)

    leave(client)
    assert meters.total(f"{OURS}.interrupted", error__type="cancelled") == 1
    assert meters.total(f"{OURS}.active_calls") == 0
    assert meters.total(f"{OURS}.kept") == 1


def leave(client: Driver) -> None:
    """A stream after its first tokens."""
    if isinstance(client.client, tito.TitoClient):
        with client.client.stream(PROMPT, sampling_params={"max_tokens": 4_000}) as stream:
            next(iter(stream))
        return

    async def leave_it() -> None:
        assert isinstance(client.client, tito.AsyncTitoClient)
        async with client.client.stream(PROMPT, sampling_params={"max_tokens": 4_000}) as stream:
            await anext(aiter(stream))

    client.run(leave_it())


def test_a_deadline_is_a_transport_error(meters: Meters, client: Driver, engine: Engine) -> None:
    engine.inject(Fault(kind="stall", phase="sampled"))
    assert isinstance(ask(client, deadline=0.2), tito.TransportError)
    assert meters.total(f"{OURS}.calls", error__type="TransportError") == 1
    assert meters.total(f"{OURS}.interrupted") == 1
    assert meters.total(f"{OURS}.active_calls") == 0


def test_scores_and_positions_without_one(meters: Meters, connect: Connect, server: RawServer) -> None:
    entries = [[-0.5, 1, None], [None, 2, None], [-9999.0, 3, None]]
    server.play(
        reply(
            200,
            {
                "text": "",
                "output_ids": [4],
                "meta_info": {
                    "id": "x",
                    "finish_reason": {"type": "length", "length": 1},
                    "input_token_logprobs": [[None, 0, None], *entries],
                    "input_top_logprobs": None,
                    "output_token_logprobs": [[-1.0, 4, None]],
                    "prompt_tokens": 4,
                    "completion_tokens": 1,
                },
            },
        )
    )
    driver = connect(transport="sglang_generate", missing_logprob="nan")
    scores = driver.score([0, 1, 2, 3])
    missing = int(np.isnan(scores.logprobs[1:]).sum())
    assert missing == 2
    assert meters.total(f"{OURS}.missing_logprobs", gen_ai__operation__name="score") == missing
    assert meters.total(f"{OURS}.tokens", gen_ai__token__type="input", gen_ai__operation__name="score") == 4
    assert meters.total(f"{OURS}.tokens", gen_ai__token__type="output") == 0


@pytest.mark.parametrize("meters", [True], ids=["each"], indirect=True)
def test_spans_carry_the_call_and_travel_with_it(meters: Meters, client: Driver, engine: Engine) -> None:
    engine.inject(Fault(kind="not_ready"), Fault(kind="wrong_rows", by=1))
    ask(client)
    completion = ask(client)
    assert isinstance(completion, tito.Completion)
    refused, right = meters.spans
    assert right.name == "text_completion tito-model"
    assert refused.status.status_code.name == "ERROR"
    assert refused.attributes["error.type"] == "RoutedExpertsError"
    assert refused.attributes["dynamo_tito.refusal.kind"] == "rows"
    assert refused.attributes["dynamo_tito.retries"] == 1
    assert right.attributes["gen_ai.usage.output_tokens"] == TOKENS
    assert right.attributes["gen_ai.response.id"] == completion.request_id
    assert right.attributes["gen_ai.response.finish_reasons"] == ("length",)
    sent = [record.headers["traceparent"].split("-")[1:3] for record in engine.requests]
    own = [[f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"] for span in meters.spans]
    assert sent == [own[0], own[0], own[1]]


GLOBAL = """
import sys
import dynamo_tito as tito
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

tito.instrument(tracer_provider=trace.get_tracer_provider())
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
with tito.TitoClient(sys.argv[1], model="tito-model", transport="dynamo_chat", trust_env=False) as client:
    client.generate([1, 2, 3])
names = [metric.name for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics]
print(len(spans.get_finished_spans()), "dynamo_tito.client.calls" in names)
"""


def test_the_global_providers_may_be_set_later(engine: Engine) -> None:
    done = subprocess.run([sys.executable, "-c", GLOBAL, engine.url], capture_output=True, text=True, check=False)
    assert done.stdout == "1 True\n", done.stderr


def test_the_pool(meters: Meters) -> None:
    stats = tito.memory_stats()
    assert meters.total("dynamo_tito.pool.requests", dynamo_tito__pool__result="hit") == stats["reused"]
    assert meters.total("dynamo_tito.pool.requests", dynamo_tito__pool__result="miss") == stats["allocated"]
    assert meters.total("dynamo_tito.pool.held") == stats["held_bytes"]


def test_the_handle_undoes_it(client: Driver, engine: Engine) -> None:
    meters = Meters()
    with pytest.raises(RuntimeError, match="uninstrument"):
        tito.instrument()
    with meters.handle:
        ask(client)
    assert _observe.observer is None
    ask(client)
    assert meters.total(f"{OURS}.calls") == 1
    assert "traceparent" not in engine.last.headers
    meters.handle.uninstrument()
    with contextlib.closing(Meters()) as others:
        meters.handle.uninstrument()  # not the one that is in force
        ask(client)
        assert others.total(f"{OURS}.calls") == 1
    meters.close()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dynamo-tito\[otel\]'"):
        tito.instrument()
    assert _observe.observer is None


def freed(client: Driver) -> bool:
    """Whether the error of a call is gone once its handler has ended; no task is to hold it."""
    if isinstance(client.client, tito.TitoClient):
        gone = None
        try:
            client.client.generate(PROMPT)
        except tito.TitoError as error:
            gone = weakref.ref(error)
        return gone is not None and gone() is None

    async def within(asynchronous: tito.AsyncTitoClient) -> bool:
        gone = None
        try:
            await asynchronous.generate(PROMPT)
        except tito.TitoError as error:
            gone = weakref.ref(error)
        return gone is not None and gone() is None

    return client.run(within(client.client))


@pytest.mark.parametrize("fault", [Fault(kind="wrong_rows", by=1), Fault(kind="reset", at=0.5)], ids=["refused", "cut"])
def test_an_error_is_freed_with_its_last_reference(
    meters: Meters, kind: Kind, engine: Engine, tmp_path: Path, fault: Fault
) -> None:
    with Driver(kind, engine.url, transport="dynamo_chat", save_refused=tmp_path, trust_env=False) as client:
        engine.inject(fault)
        gc.disable()
        try:
            assert freed(client)
        finally:
            gc.enable()
    assert meters.total(f"{OURS}.active_calls") == 0


def test_a_turn_that_is_resumed_is_counted(meters: Meters, engine: Engine) -> None:
    async def roll() -> None:
        rollout = Rollout(ChatRenderer())
        params = {"max_tokens": TOKENS}
        async with tito.AsyncTitoClient(
            engine.url, model="tito-model", transport="dynamo_chat", trust_env=False
        ) as client:
            engine.inject(Fault(kind="abort", at=5))
            await rollout.step(client, [{"role": "user", "content": "Well?"}], sampling_params=params)
            await rollout.resume(client)

    asyncio.run(roll())
    assert meters.total(f"{OURS}.resumed") == 1
    assert meters.total(f"{OURS}.tokens", gen_ai__token__type="output") == TOKENS


def test_a_stream_that_is_dropped_ends(meters: Meters, client: Driver) -> None:
    if isinstance(client.client, tito.TitoClient):
        stream = client.client.stream(PROMPT, sampling_params={"max_tokens": 4_000})
        next(iter(stream))
        del stream
    else:

        async def drop(found: tito.AsyncTitoClient) -> None:
            stream = found.stream(PROMPT, sampling_params={"max_tokens": 4_000})
            await anext(aiter(stream))
            await stream.aclose()

        client.run(drop(client.client))
    gc.collect()
    assert meters.total(f"{OURS}.active_calls") == 0
    assert meters.total(f"{OURS}.interrupted", error__type="cancelled") == 1
